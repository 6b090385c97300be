"""What goes wrong in a real cluster, and what a user sees of it. They take half an hour: `make test-faults`."""

import sys
import time

import pytest

from components.labels import Component
from infra.network import Namespace
from tests.cluster.one_node import why_not
from tests.whole.asker import outage
from tests.whole.conftest import Lived
from tests.whole.matrix import tried
from tests.whole.stack import DATASET, MODEL, write_stack

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(1800),
]

TEN_RIGHT = [200] * 10


def test_every_declared_pair_connects_and_no_other_does(lived: Lived) -> None:
    pairs = tried(lived.site.cluster)
    wrong = [str(pair) for pair in pairs if pair.allowed != pair.made]
    print(f"{len(pairs)} pairs, {sum(pair.allowed for pair in pairs)} of them allowed")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("namespace", "component"),
    [
        (Namespace.REGISTRY, Component.MLFLOW),
        (Namespace.REGISTRY, Component.POSTGRES),
        (Namespace.REGISTRY, Component.OBJECT_STORE),
        (Namespace.SERVING, Component.TRITON),
        (Namespace.SERVING, Component.GATEWAY),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_pod_that_is_deleted_comes_back_and_nothing_that_was_acknowledged_is_lost(
    lived: Lived, namespace: Namespace, component: Component, force: bool
) -> None:
    site = lived.site
    with site.asked() as answers:
        before = len(answers())
        gone = site.uids(namespace, component)
        site.delete_pods(namespace, component, force=force)
        site.wait(
            f"another {component}",
            lambda: site.ready(namespace, component) and not gone & site.uids(namespace, component),
        )
        site.wait("predictions", lambda: [one.status for one in answers()[-10:]] == TEN_RIGHT)
        during = answers()[before:]
    failed, seconds = outage(during)
    print(f"{component} {'killed' if force else 'deleted'}: {failed} requests failed, in {seconds} s")
    assert {one.release for one in during if one.release} == {lived.journey.releases[0]}
    if namespace is Namespace.REGISTRY:
        assert failed == 0, "what is registered is not needed to predict"
    (row, *_) = site.manager.connected("versions", MODEL, "--json").json
    assert row["digest"] == lived.journey.releases[0]
    assert DATASET in site.manager.connected("data", "list").out


def test_predictions_go_on_while_the_nodes_container_runtime_is_started_anew(lived: Lived) -> None:
    with lived.site.asked() as answers:
        before = len(answers())
        lived.site.cluster.restart_containerd()
        lived.site.wait("predictions", lambda: len(answers()) > before + 25)
        failed, seconds = outage(answers()[before:])
    print(f"containerd killed: {failed} requests failed, in {seconds} s")
    assert failed == 0


def test_a_rotated_key_of_the_gateway_replaces_the_old_one(lived: Lived) -> None:
    site = lived.site
    old = site.gateway_key()
    assert site.status_with(old) == 200
    write_stack(
        site.project, site.cluster.kubeconfig, rotation={"gateway": 2, "mlflow": 2, "postgres": 2, "trainer": 2}
    )
    with site.asked() as answers:
        before = len(answers())
        began = time.monotonic()
        site.up()
        new = site.gateway_key()
        assert new != old
        site.wait("the new key to be known", lambda: site.status_with(new) == 200)
        site.wait("the old key to be refused", lambda: site.status_with(old) == 401)
        print(f"rotated in {time.monotonic() - began:.0f} s")
        # Somebody who kept the old key is refused, and by nothing else.
        assert {one.status for one in answers()[before:]} <= {200, 401}
    image = site.project / "models" / MODEL / "sample" / "golden" / "plain.jpg"
    assert site.manager.connected("predict", MODEL, str(image), "--json").json["release"] == lived.journey.releases[0]
    assert site.manager.connected("versions", MODEL, "--json").json[0]["digest"] == lived.journey.releases[0]
    assert site.engine.preview().empty


DAMAGE = """
import sys
from modelport.connection import Connection, Role
from modelport.objects import ObjectStore

store = ObjectStore.connect(Connection.load(), Role.PROMOTER)
digest = sys.argv[1]
(key,) = [found.key for found in store.list(f"releases/{digest}/") if found.key.endswith("network/model.onnx")]
data = bytearray(store.get(key))
data[len(data) // 2] ^= 1
store.put(key, bytes(data))
"""


def test_a_release_that_is_damaged_in_the_store_is_never_served(lived: Lived) -> None:
    site, digest = lived.site, lived.journey.releases[0]
    site.manager.program("--role", "promoter", "--", sys.executable, "-c", DAMAGE, digest)
    with site.asked() as answers:
        before = len(answers())
        site.wait("more answers", lambda: len(answers()) > before + 20)
        assert {one.status for one in answers()[before:]} == {200}, "what is loaded serves on"
        site.delete_pods(Namespace.SERVING, Component.TRITON)
        site.wait("the damage to be told", lambda: "sha256" in site.agent_log() or "digest" in site.agent_log())
        later = len(answers())
        site.wait("more answers", lambda: len(answers()) > later + 20)
        assert 200 not in {one.status for one in answers()[later:]}
    assert not site.ready(Namespace.SERVING, Component.TRITON)
