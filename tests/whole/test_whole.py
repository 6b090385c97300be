"""The whole stack in a real cluster on this machine, and what goes wrong in it.

One cluster for all of the tests: bringing it up and training in it is what takes the time. Whoever breaks something
waits until it is whole again.
"""

import hashlib
import json
import re
import sys
import time

import pytest

from components.labels import Component
from infra.network import Namespace
from tests.cluster.one_node import why_not
from tests.whole.asker import ten_right
from tests.whole.conftest import Lived
from tests.whole.site import Site
from tests.whole.stack import MODEL
from tests.whole.told import tell

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(1800),
]


def lose_the_worker(site: Site) -> None:
    """Kill the only worker of the training that goes on, after a checkpoint."""
    site.wait("an epoch of the training", lambda: any("epoch 2/6" in log for log in site.training_logs()))
    assert site.delete_workers()


MEANWHILE = lose_the_worker


@pytest.fixture(scope="module")
def second(lived: Lived) -> str:
    """A second release, which has passed the gate."""
    site = lived.site
    told = site.scientist.program("--role", "trainer", "--", sys.executable, "-m", "tests.whole.elsewhere").out
    digest = told.split()[-1]
    assert digest == site.manager.connected("versions", MODEL, "--json").json[0]["digest"]
    site.manager.connected("gate", MODEL, digest)
    lived.journey.releases.append(digest)
    return digest


def test_somebody_with_a_key_is_answered_by_the_release_that_was_promoted(lived: Lived) -> None:
    lived.journey.predict(lived.site)
    assert lived.site.model()["ready"]


def test_a_load_test_from_a_laptop_asks_through_the_connection(lived: Lived) -> None:
    told = lived.site.manager.connected("loadtest", MODEL, "--users", "2", "--duration", "5s").out
    assert re.search(r"\b0 failed", told), told


def test_every_pod_is_restricted_and_says_what_it_needs(lived: Lived) -> None:
    cluster = lived.site.cluster
    for namespace in Namespace:
        if namespace.value not in lived.site.namespaces():
            continue
        labels = cluster.get(f"/api/v1/namespaces/{namespace}")["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        for pod in cluster.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
            name = f"{namespace}/{pod['metadata']['name']}"
            for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
                assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name


def test_a_worker_that_is_killed_in_mid_training_is_replaced_and_the_training_goes_on(lived: Lived) -> None:
    epochs = [line for line in lived.journey.told if line.startswith("epoch ") and "step" not in line]
    assert epochs, lived.journey.told
    assert "epoch 6/6" in epochs[-1]
    firsts = sum(line.startswith("epoch 1/6") for line in epochs)
    assert firsts == 1, "the training began anew instead of going on"


def test_predictions_come_back_without_mlflow(lived: Lived) -> None:
    site = lived.site
    with site.asked() as answers:
        site.scale(Namespace.REGISTRY, "deployment", "mlflow", 0)
        try:
            before, gone = len(answers()), site.uids(Namespace.SERVING, Component.TRITON)
            site.delete_pods(Namespace.SERVING, Component.TRITON)
            site.wait(
                "Triton's replacement",
                lambda: site.replaced(Namespace.SERVING, Component.TRITON, gone),
            )
            again = len(answers())
            site.wait("predictions again", lambda: ten_right(answers()[again:]))
            during = answers()[before:]
        finally:
            site.scale(Namespace.REGISTRY, "deployment", "mlflow", 1)
        tell("MLflow gone, and the only Triton deleted", during)
        assert {one.release for one in during if one.release} == {lived.journey.releases[0]}
    site.wait("MLflow to be back", lambda: site.ready(Namespace.REGISTRY, Component.MLFLOW))
    registered = {row["digest"] for row in site.manager.connected("versions", MODEL, "--json").json}
    assert registered >= {lived.journey.releases[0]}
    answered = {one.request for one in during if one.status == 200}
    site.wait("a record of every answer", lambda: answered <= site.recorded(), 120)


RIGHTS = """
import sys
from modelport.connection import Connection, Role
from modelport.errors import Refused
from modelport.objects import ObjectStore

release, etag = sys.argv[1:]
store = ObjectStore.connect(Connection.load(), Role.TRAINER)
store.put("staging/polyp_seg/mine", b"x")
served, log = f"releases/{release}/manifest.json", "promotions/polyp_seg/log.json"
numbers = "promotions/polyp_seg/numbers.json"
keys = (
    "releases/x/manifest.json", "heldout/x", "records/x", "datasets/x", "replicas/polyp_seg/x.json",
    "promotions/polyp_seg/evidence/x.json", served, log, numbers,
)
attempts = {
    **{f"wrote {key}": lambda key=key: store.put(key, b"x") for key in keys},
    **{f"deleted {key}": lambda key=key: store.delete(key) for key in keys},
    "wrote the log on one condition": lambda: store.replace(log, b"x", etag),
    "wrote the log on another": lambda: store.put_new(log, b"x"),
    "read the log": lambda: store.get(log),
    "read the held-out split": lambda: list(store.list("heldout/")),
}
for done, attempt in attempts.items():
    try:
        attempt()
    except Refused:
        continue
    sys.exit(f"the trainer {done}")
print("refused", len(attempts))
"""
"""With the MinIO that a cluster has; tests/promotion has the same on a laptop's SeaweedFS."""


def test_a_trainers_secret_changes_nothing_but_staging_and_a_wrong_key_gets_nothing(lived: Lived) -> None:
    site = lived.site
    before, log = site.model()["release"], site.log_of_promotions()
    stored = log.removesuffix("\n").encode()
    etag = f'"{hashlib.md5(stored).hexdigest()}"'
    told = site.scientist.program("--role", "trainer", "--", sys.executable, "-c", RIGHTS, before, etag)
    assert told.out.strip() == "refused 22", told.errors
    assert site.log_of_promotions() == log
    assert site.scientist.connected("promote", MODEL, lived.journey.releases[0], code=6).out == ""
    assert site.model()["release"] == before

    assert site.status_with("a wrong key") == 401
    with site.asked("a wrong key") as answers:
        assert {(one.status, one.release) for one in answers()} == {(401, None)}


def test_a_version_changes_over_and_back_while_people_go_on_asking(lived: Lived, second: str) -> None:
    load = lived.journey.change_over(lived.site)
    print(json.dumps({"requests": load.requests, "failed": load.failed}))


def test_no_credential_stays_on_a_laptop(lived: Lived, second: str) -> None:
    """Neither in a home, nor among temporary files, nor in the project, after all that was done with them."""
    site = lived.site
    connections = site.connections().values()
    held = {key.secret_key for connection in connections for key in connection.s3_keys.values()}
    held |= {connection.tracking_password for connection in connections if connection.tracking_password}
    held.add(site.gateway_key())
    assert len(held) > 6
    for folder in (site.scientist.folder, site.manager.folder, site.project):
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        assert len(files) > 3
        left = [str(file) for file in files if any(key.encode() in file.read_bytes() for key in held)]
        assert left == []


def test_no_pod_took_nearly_all_that_it_may(lived: Lived, second: str) -> None:
    """Of all that there were until now, trainings, load test and setups among them."""
    assert any("raycluster" in used.pod or "-head-" in used.pod for used in lived.site.pods_used())
    lived.journey.used(lived.site)


def test_a_second_preview_is_empty_and_nothing_is_left_after_destroy(lived: Lived) -> None:
    lived.journey.unchanged(lived.site)
    began = time.monotonic()
    lived.journey.destroy(lived.site)
    print(f"destroyed in {time.monotonic() - began:.0f} s")
