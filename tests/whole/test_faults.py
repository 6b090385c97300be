"""What goes wrong in a real cluster, and what a user sees of it: `make test-faults`.

One stack for all of these tests; each leaves it whole. docs/faults.md has what was seen.
"""

import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from components import ports
from components.labels import Component
from infra.network import Namespace
from infra.settings import CREDENTIALS
from tests.cluster.one_node import why_not
from tests.whole.asker import ten_right
from tests.whole.conftest import Lived
from tests.whole.matrix import tried
from tests.whole.stack import DATASET, MODEL
from tests.whole.told import tell

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(1800),
]


def test_every_declared_pair_connects_and_no_other_does(lived: Lived) -> None:
    """While a training goes on, with somebody in the place of a Prometheus, which this stack has not."""
    site = lived.site
    with site.namespace(Namespace.MONITORING.value), site.training("train.seed=5", "train.epochs=90"):
        pairs = tried(site.cluster)
        dashboards = {pair.target.host for pair in pairs if pair.target.port == ports.RAY_DASHBOARD}
        # From the node, which no policy keeps out.
        answers = {site.status_of(f"http://{host}:{ports.RAY_DASHBOARD}/api/jobs/") for host in dashboards}
    assert answers == {401}, "a Ray cluster takes jobs from who has its token, and from nobody else"
    print(f"{len(pairs)} pairs, {sum(pair.allowed for pair in pairs)} of them allowed")
    asked = {pair.target.place.namespace for pair in pairs if pair.target.place is not None}
    assert asked == {Namespace.REGISTRY, Namespace.TRAINING, Namespace.SERVING, Namespace.OPERATORS}
    wrong = [str(pair) for pair in pairs if not pair.right]
    assert not wrong, "\n".join([*wrong, site.cluster.report()])


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
    written = f"{component}-{force}"
    with site.asked() as answers:
        before = len(answers())
        gone = site.uids(namespace, component)
        site.scientist.program("--role", "trainer", "--", sys.executable, "-c", ACKNOWLEDGED, "write", written)
        site.delete_pods(namespace, component, force=force)
        site.wait(
            f"another {component}",
            lambda: site.replaced(namespace, component, gone),
        )
        site.wait("predictions", lambda: ten_right(answers()))
        during = answers()[before:]
    seen = tell(f"the only pod of {component} {'killed' if force else 'deleted'}", during)
    assert {one.release for one in during if one.release} == {lived.journey.releases[0]}
    if namespace is Namespace.REGISTRY:
        assert seen.failed == 0, "what is registered is not needed to predict"
    site.scientist.program("--role", "trainer", "--", sys.executable, "-c", ACKNOWLEDGED, "read", written)
    assert_nothing_is_lost(lived)
    answered = {one.request for one in during if one.status == 200}
    site.wait("a record of every answer", lambda: answered <= site.recorded(), 120)


ACKNOWLEDGED = """
import sys
from modelport.connection import Connection, Role
from modelport.objects import ObjectStore

what, name = sys.argv[1:]
connection = Connection.load()
store = ObjectStore.connect(connection, Role.TRAINER)
connection.configure_tracking()
from mlflow import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("polyp_seg").experiment_id
if what == "write":
    run = client.create_run(experiment, run_name=name).info.run_id
    client.log_metric(run, "acknowledged", 1.0)
    client.set_terminated(run, "FINISHED")
    store.put(f"staging/acknowledged/{name}", run.encode())
else:
    run = client.get_run(store.get(f"staging/acknowledged/{name}").decode())
    assert (run.info.run_name, run.info.status, run.data.metrics) == (name, "FINISHED", {"acknowledged": 1.0}), run
"""


def assert_nothing_is_lost(lived: Lived) -> None:
    """Versions, datasets and promotions are as they were made."""
    site, digest = lived.site, lived.journey.releases[0]
    rows = {row["digest"]: row for row in site.manager.connected("versions", MODEL, "--json").json}
    assert rows[digest]["version"] == 1
    assert site.manager.connected("status", MODEL, "--json").json["aliases"]["champion"] == digest
    assert "(latest)" in site.manager.connected("data", "list", DATASET).out
    entries = json.loads(site.log_of_promotions())["entries"]
    assert [entry["to"] for entry in entries] == lived.journey.releases


def test_predictions_go_on_while_the_nodes_container_runtime_is_started_anew(lived: Lived) -> None:
    with lived.site.asked() as answers:
        before = len(answers())
        lived.site.cluster.restart_containerd()
        lived.site.wait("predictions", lambda: len(answers()) > before + 25)
        during = answers()[before:]
    assert tell("the node's containerd killed", during).failed == 0
    assert_nothing_is_lost(lived)


def test_rotated_credentials_replace_the_old_ones(lived: Lived) -> None:
    """All of them at once."""
    site = lived.site
    old, connections = site.gateway_key(), site.connections()
    password = site.secret(Namespace.REGISTRY, "postgres-app")["password"]
    assert site.status_with(old) == 200
    assert site.database_takes(password)
    assert len(connections) >= 4
    site.configure(rotation=dict.fromkeys(CREDENTIALS, 2))
    with site.asked() as answers:
        before = len(answers())
        began = time.monotonic()
        site.up()
        new = site.gateway_key()
        assert new != old
        site.wait("the new key to be known", lambda: site.status_with(new) == 200)
        site.wait("the old key to be refused", lambda: site.status_with(old) == 401)
        seconds = time.monotonic() - began
        during = answers()[before:]
    statuses = {one.status for one in during}
    refused = sum(one.status == 401 for one in during)
    remark = (
        f"{refused} of them refused with 401, the others while the only gateway was replaced; all took {seconds:.0f} s"
    )
    tell("all credentials rotated, and the old key kept", during, remark)
    assert statuses <= {0, 200, 401}, "whoever keeps an old key is refused, and by nothing else"
    known = during[[one.status for one in during].index(401) :]
    assert {one.status for one in known} <= {0, 401}, "an old key that was refused is not taken again"
    renewed = site.connections()
    assert set(renewed) == set(connections)
    for name, was in connections.items():
        for key in was.s3_keys.values():
            assert site.refused_by_store(key), f"the object store takes the old key in {name}"
        for key in renewed[name].s3_keys.values():
            assert site.refused_by_store(key) is None, name
        if was.tracking_password is not None:
            # MLflow remembers for up to a minute who logged in.
            site.wait(
                f"the old password in {name} to be refused", lambda was=was: site.status_at_mlflow(was) == 401, 90
            )
            assert site.status_at_mlflow(renewed[name]) == 200, name
    assert not site.database_takes(password)
    assert site.database_takes(site.secret(Namespace.REGISTRY, "postgres-app")["password"])
    with site.asked() as answers:
        site.wait("answers with the new key", lambda: ten_right(answers()[:10]), 30)
    answer = site.manager.connected("predict", MODEL, str(site.sample()), "--json").json
    assert answer["release"] == lived.journey.releases[0]
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


def test_a_release_that_is_damaged_in_the_store_is_never_served_and_can_be_mended(lived: Lived) -> None:
    site, digest = lived.site, lived.journey.releases[0]
    site.manager.program("--role", "promoter", "--", sys.executable, "-c", DAMAGE, digest)
    with site.asked() as answers:
        before = len(answers())
        site.wait("more answers", lambda: len(answers()) > before + 20)
        assert {one.status for one in answers()[before:]} == {200}, "what is loaded serves on"
        site.delete_pods(Namespace.SERVING, Component.TRITON)
        site.wait("the damage to be told", lambda: "is refused" in site.agent_log())
        # The server that was deleted loaded the release before that was damaged, and answers rightly while it drains.
        site.wait("the gateway to have lost it", lambda: answers()[-1].status != 200)
        later = len(answers())
        site.wait("more answers", lambda: len(answers()) > later + 20)
        assert 200 not in {one.status for one in answers()[later:]}
        told = site.manager.connected("status", MODEL).out
        assert "corrupted" in told, told

        # As docs/operate.md has it. A replica that has refused a release does not try it again.
        site.manager.connected("promote", MODEL, digest)
        site.delete_pods(Namespace.SERVING, Component.TRITON)
        site.wait("predictions", lambda: ten_right(answers()))
        during = answers()[before:]
    tell("the only release damaged in the store, and the only server lost; mended by hand", during)
    assert {one.release for one in during if one.release} == {digest}


UNDER_WAY = 80
"""Epochs of a training that loses, one after the other, all that it writes to."""

RECORDED = """
import json
from modelport.connection import Connection

Connection.load().configure_tracking()
from mlflow import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("polyp_seg").experiment_id
(run,) = client.search_runs([experiment], order_by=["attributes.start_time DESC"], max_results=1)
steps = [one.step for one in client.get_metric_history(run.info.run_id, "loss")]
print(json.dumps({"status": run.info.status, "steps": steps}))
"""


def test_a_training_loses_nothing_though_all_that_it_writes_to_is_killed_under_it(lived: Lived) -> None:
    """MLflow, its database, the object store: each when the training has gone on without the one before."""
    site = lived.site

    def epoch() -> int:
        said = re.findall(rf"^epoch (\d+)/{UNDER_WAY} ", "\n".join(site.training_logs()), re.MULTILINE)
        return max(map(int, said), default=0)

    with site.asked() as answers, ThreadPoolExecutor() as pool:
        before = len(answers())
        training = pool.submit(site.scientist.connected, "train", MODEL, "--set", f"train.epochs={UNDER_WAY}")
        site.wait("an epoch", lambda: epoch() >= 1)
        for component in (Component.MLFLOW, Component.POSTGRES, Component.OBJECT_STORE):
            gone, reached = site.uids(Namespace.REGISTRY, component), epoch()
            site.delete_pods(Namespace.REGISTRY, component, force=True)
            site.wait(
                f"another {component}",
                lambda component=component, gone=gone: site.replaced(Namespace.REGISTRY, component, gone),
            )
            site.wait("the training to go on", lambda reached=reached: epoch() > reached + 1)
        assert not training.done(), "it ended before it had lost everything"
        training.result(timeout=900)
        during = answers()[before:]
    told = tell("all that a training writes to killed under it, one after the other", during, "the training went on")
    assert told.failed == 0
    rows = site.manager.connected("versions", MODEL, "--json").json
    assert len(rows) == 2
    assert rows[0]["version"] == 2
    recorded = site.scientist.program("--role", "trainer", "--", sys.executable, "-c", RECORDED).json
    assert recorded == {"status": "FINISHED", "steps": list(range(UNDER_WAY))}
    site.manager.connected("gate", MODEL, rows[0]["digest"])
    assert_nothing_is_lost(lived)
