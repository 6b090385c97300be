"""What a pod asked for, and whether it got too little."""

from typing import Any

import pytest

from tests.cluster.meter import MIB, Asked, Pods, asked_by, killed_for_memory


def container(name: str, requests: str = "", limits: str = "", **more: Any) -> dict[str, Any]:
    def resources(text: str) -> dict[str, str]:
        return dict(zip(("cpu", "memory"), text.split(), strict=True)) if text else {}

    return {"name": name, "resources": {"requests": resources(requests), "limits": resources(limits)}, **more}


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        (
            {"containers": [container("a", "100m 64Mi", "1 128Mi"), container("b", "0.5 1Gi", "500m 1Gi")]},
            Asked(0.6, 1.5, 1088 * MIB, 1152 * MIB),
        ),
        (
            {"containers": [container("a", "100m 64Mi", "100m 64Mi"), container("b", "100m 64Mi")]},
            Asked(0.2, None, 128 * MIB, None),
        ),
        (
            {
                "initContainers": [container("before", "2 32Mi", "2 32Mi")],
                "containers": [container("a", "1 64Mi", "1 64Mi")],
            },
            Asked(2, 2, 64 * MIB, 64 * MIB),
        ),
        (
            {
                "initContainers": [container("beside", "2 32Mi", "2 32Mi", restartPolicy="Always")],
                "containers": [container("a", "1 64Mi", "1 64Mi")],
            },
            Asked(3, 3, 96 * MIB, 96 * MIB),
        ),
    ],
    ids=["together", "one without a limit", "one after the other", "one that stays"],
)
def test_what_a_pod_asks_for(spec: dict[str, Any], asked: Asked) -> None:
    assert asked_by(spec) == asked


def test_who_was_killed_for_memory_is_remembered_when_the_pod_is_gone() -> None:
    def pod(**state: Any) -> dict[str, Any]:
        return {
            "metadata": {"uid": "1", "namespace": "here", "name": "greedy"},
            "spec": {"containers": [container("main", "1 64Mi", "1 64Mi")]},
            "status": {"containerStatuses": [{"name": "main", **state}]},
        }

    killed = {"terminated": {"reason": "OOMKilled"}}
    assert killed_for_memory(pod(state={"running": {}}, lastState=killed)["status"]) == {"main"}
    assert killed_for_memory(pod(state={"terminated": {"reason": "Error"}})["status"]) == set()

    pods = Pods()
    pods.changed("MODIFIED", pod(state=killed))
    pods.changed("MODIFIED", pod(state={"running": {}}))
    for second in range(30):
        pods.measured(float(second), {"1": 32 * MIB}, {"1": 0.5 * second})
    pods.measured(30.0, {}, {})
    (used,) = pods.used()
    assert (used["pod"], used["killed_for_memory"]) == ("here/greedy", ["main"])
    assert (used["current"], used["peak"], used["cpu_peak"], used["seconds"]) == (0, 32 * MIB, 0.5, 29.0)
