"""What the tests of the whole stack judge by, without one."""

import pytest

from components import ports
from components.labels import COMPONENT, Component
from infra.network import Namespace, matrix
from tests.whole.clock import Clock
from tests.whole.matrix import Pair, Place, Target, is_allowed, sources
from tests.whole.site import read_load

LOG = """\
[2026-11-29 03:00:00,000] load-0/INFO/locust.main: Shutting down (exit code 0)
Type     Name                                              # reqs      # fails |    Avg     Min     Max    Med |   req/s  failures/s
--------|------------------------------------------------|-------|-------------|-------|-------|-------|-------|--------|-----------
POST     /v1/models/polyp_seg/predict by 0123456789ab         700     0(0.00%) |     70      30     150     69 |   30.00        0.00
POST     /v1/models/polyp_seg/predict by ba9876543210         300     2(0.67%) |     80      30    1600     71 |   10.00        0.00
--------|------------------------------------------------|-------|-------------|-------|-------|-------|-------|--------|-----------
         Aggregated                                          1000     2(0.20%) |     73      30    1600     70 |   40.00        0.00

Response time percentiles (approximated)
Type     Name                                                      50%    66%    75%    80%    90%    95%    98%    99%  99.9% 99.99%   100% # reqs
--------|----------------------------------------------------|--------|------|------|------|------|------|------|------|------|------|------|------
POST     /v1/models/polyp_seg/predict by 0123456789ab              69     70     70     70     70     70     70     70     70     70     70    700
"""  # noqa: E501  as Locust prints it


def test_a_load_test_tells_how_often_each_release_answered() -> None:
    load = read_load(LOG)
    assert (load.requests, load.failed, load.median_ms, load.longest_ms) == (1000, 2, 70, 1600)
    assert load.by_release == {"0123456789ab": 700, "ba9876543210": 300}
    with pytest.raises(ValueError, match="left no summary"):
        read_load("Killed")


def place(component: Component, namespace: Namespace) -> Place:
    return Place(component.value, namespace.value, ((COMPONENT, component.value),))


STORE = Target("object-store", ports.OBJECT_STORE, place(Component.OBJECT_STORE, Namespace.REGISTRY))
HEAD = Target("198.18.0.9", ports.RAY_DASHBOARD, Place("head", Namespace.TRAINING, ((COMPONENT, "ray"), ("a", "b"))))
API = Target("kubernetes", ports.HTTPS, None)


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        (place(Component.RAY, Namespace.TRAINING), STORE, True),
        (place(Component.RAY, Namespace.SERVING), STORE, False),
        (place(Component.GATEWAY, Namespace.SERVING), HEAD, False),
        (place(Component.RAY_SUBMITTER, Namespace.TRAINING), HEAD, True),
        (Place("nobody", Namespace.OPERATORS), HEAD, True),
        (Place("nobody", Namespace.TRAINING), HEAD, False),
        (Place("nobody", "default"), HEAD, False),
        (Place("nobody", "default"), API, True),
        (place(Component.TRAINING_TRIGGER, Namespace.TRAINING), API, True),
        (place(Component.TRITON, Namespace.SERVING), API, False),
    ],
)
def test_who_may_reach_what(source: Place, target: Target, allowed: bool) -> None:
    assert is_allowed(matrix(["0.0.0.0/0"]), source, target) is allowed


def test_everybody_is_tried_and_somebody_of_no_kind_in_each_namespace() -> None:
    namespaces = [name.value for name in Namespace]
    found = {(source.namespace, source.name) for source in sources(matrix(["0.0.0.0/0"]), namespaces)}
    assert {(name, "nobody") for name in (*namespaces, "default")} <= found
    assert {name for namespace, name in found if namespace == Namespace.SERVING} == {
        *("nobody", "triton", "gateway", "load-test"),
    }


def test_a_name_that_is_not_known_shows_nothing() -> None:
    source = place(Component.GATEWAY, Namespace.SERVING)
    assert Pair(source, HEAD, False, "198.18.0.9", None).right
    assert not Pair(source, HEAD, False, None, None).right
    assert not Pair(source, HEAD, False, "198.18.0.9", "it was").right
    assert not Pair(source, HEAD, True, "198.18.0.9", None).right


def test_a_step_is_said_with_its_time_and_one_that_failed_with_what_explains_it() -> None:
    said: list[str] = []
    clock = Clock(said.append, explain=lambda: "pod web is not ready")
    with clock.step("first") as notes:
        notes.append("all well")
    with pytest.raises(RuntimeError), clock.step("second"):
        raise RuntimeError
    assert set(clock.seconds) == {"first", "second"}
    first, second, why = said
    assert "first" in first
    assert "all well" in first
    assert "second" in second
    assert "FAILED" in second
    assert why == "pod web is not ready"
