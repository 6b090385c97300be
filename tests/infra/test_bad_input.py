"""What a user can get wrong, on the real engine: told before anything is made, with the key and the remedy."""

from collections.abc import Callable

import pytest

from tests.engine.engine import EngineFailed
from tests.infra.conftest import Environment

Change = Callable[[Environment], object]


def set_path(key: str, value: str) -> Change:
    return lambda made: made.engine.config_set(f"modelport:{key}", value, path=True)


def remove(key: str) -> Change:
    return lambda made: made.engine.run("config", "rm", "--stack", "dev", key)


def twin(made: Environment) -> None:
    made.add_model("twin")
    file = made.project / "models" / "twin" / "model.yaml"
    file.write_text(file.read_text().replace("name: twin", "name: polyp_seg"))


def disagree(made: Environment) -> None:
    file = made.project / "models" / "polyp_seg" / "triton" / "polyp_seg" / "config.pbtxt"
    file.write_text(file.read_text().replace('name: "mask"', 'name: "picture"'))


def hungry(made: Environment) -> None:
    file = made.project / "models" / "polyp_seg" / "model.yaml"
    file.write_text(file.read_text().replace("memory: 4Gi", "memory: 400Gi"))


def elsewhere(made: Environment) -> None:
    made.engine.config_set("modelport:cluster.kind", "existing", path=True)
    made.engine.config_set("modelport:cluster.kubeconfig", str(made.project / "nowhere"), path=True)
    for key in ("zone", "release_channel", "system_machine_type", "system_minimum", "system_maximum", "node_pools"):
        made.engine.run("config", "rm", "--stack", "dev", "--path", f"modelport:cluster.{key}")
    made.engine.config_set("modelport:cluster.nodes.all.cpus", "8", path=True)
    made.engine.config_set("modelport:cluster.nodes.all.memory", "32Gi", path=True)


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no project": (remove("gcp:project"), ("gcp:project", "pulumi config set gcp:project")),
    "a machine that has not this accelerator": (
        set_path("cluster.node_pools.gpu.machine_type", "n2-standard-8"),
        ("modelport:cluster.node_pools.gpu", "n2-standard-8", "g2-standard"),
    ),
    "an unknown machine": (
        set_path("cluster.node_pools.cpu.machine_type", "e9-standard-4"),
        ("modelport:cluster.node_pools.cpu", "e9-standard-4"),
    ),
    "a pool that is too small": (
        set_path("models.polyp_seg.serve.replicas", "90"),
        ("cpu has at most 4 node(s)", "90 pods", "polyp_seg"),
    ),
    "a model that fits nowhere": (hungry, ("train worker fits on no node", "memory: 400.0Gi wanted", "allocatable")),
    "an override of an unknown model": (
        set_path("models.polyp.serve.replicas", "2"),
        ("modelport:models.polyp", "polyp_seg"),
    ),
    "a pin of an unknown model": (set_path("versions.polyp", "ab" * 32), ("modelport:versions.polyp", "polyp_seg")),
    "a pin that is no digest": (set_path("versions.polyp_seg", "v7"), ("modelport:versions.polyp_seg",)),
    "a misspelt key": (set_path("gatewy.replicas", "2"), ("modelport:gatewy", "is not a known key", "gateway")),
    "two models with one name": (twin, ("models/twin/model.yaml", "name", "polyp_seg")),
    "a config that disagrees with the task's table": (disagree, ("polyp_seg/config.pbtxt", "mask")),
    "a kubeconfig that is not there": (elsewhere, ("nowhere", "there is no kubeconfig")),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_before_anything_is_made(draft: Environment, case: str):
    change, said = CASES[case]
    change(draft)
    with pytest.raises(EngineFailed) as caught:
        draft.engine.preview()
    for text in said:
        assert text in str(caught.value)
    assert "Traceback" not in caught.value.log
    assert not [step for step in caught.value.changes.steps if step.type != "pulumi:pulumi:Stack"]
