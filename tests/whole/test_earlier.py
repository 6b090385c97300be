"""A stack of an earlier commit, in which somebody has worked, is brought up to this one: everything is still there."""

import json
import subprocess
import tarfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from components import ports
from infra.network import Namespace
from tests.cluster.one_node import why_not
from tests.whole.asker import ten_right
from tests.whole.clock import Clock
from tests.whole.journey import Journey
from tests.whole.room import too_little_disk
from tests.whole.site import PROJECT, Site
from tests.whole.stack import DATASET, MODEL, model
from tests.whole.told import tell
from tools import program

EARLIER = "46973196d36d"
"""The last one before people reached a cluster by `modelport connect`."""
TRAINING_S = 300

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(1800),
]


def checkout_of(commit: str, folder: Path) -> Path:
    """The project as it was at a commit, with this one's environment."""
    archive = folder.with_suffix(".tar")
    done = subprocess.run(
        ["git", "-C", str(PROJECT), "archive", f"--output={archive}", commit],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"an upgrade needs the history of this repository, with {commit}: {done.stderr.strip()}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    (folder / ".venv").symlink_to(PROJECT / ".venv")
    return folder


@contextmanager
def forwarded(site: Site, service: str, port: int) -> Generator[str]:
    """A port of this machine, ``host:port``, that leads to a Service of the registry's namespace."""
    command = [program("kubectl"), f"--kubeconfig={site.cluster.kubeconfig}", "-n", Namespace.REGISTRY.value]
    with subprocess.Popen(
        [*command, "port-forward", f"service/{service}", f":{port}"], stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            assert line.startswith("Forwarding from 127.0.0.1:"), line
            yield line.split()[2]
        finally:
            running.terminate()


@contextmanager
def promoter(site: Site) -> Generator[Path]:
    """The promoter's connection, for commands of this machine, as its Secret has it."""
    secrets = site.cluster.get(f"/api/v1/namespaces/{Namespace.REGISTRY}/secrets")["items"]
    (name,) = [one["metadata"]["name"] for one in secrets if one["metadata"]["name"].startswith("connection-promoter-")]
    text = site.cluster.kubectl(
        *("-n", Namespace.REGISTRY.value, "get", "secret", name),
        *("-o", "go-template={{index .data `connection.json` | base64decode}}"),
    )
    with ExitStack() as stack:
        store = stack.enter_context(forwarded(site, "object-store", ports.OBJECT_STORE))
        mlflow = stack.enter_context(forwarded(site, "mlflow", ports.MLFLOW))
        document: dict[str, Any] = json.loads(text)
        document |= {"s3_endpoint": f"http://{store}", "tracking_uri": f"http://{mlflow}"}
        file = site.folder / "promoter.json"
        file.write_text(json.dumps(document))
        yield file


def trained(site: Site) -> None:
    """Train, by the template that the stack has; the image is this commit's, and its submission wants other rights."""
    place, name = Namespace.TRAINING.value, f"{MODEL.replace('_', '-')}-rayjob"
    template = site.cluster.get(f"/api/v1/namespaces/{place}/configmaps/{name}")["data"]["rayjob.json"]
    job: dict[str, Any] = json.loads(template)
    job["metadata"]["name"] = "before-the-upgrade"
    site.cluster.request("POST", f"/apis/ray.io/v1/namespaces/{place}/rayjobs", job)

    def ended() -> Mapping[str, Any] | None:
        jobs = site.cluster.get(f"/apis/ray.io/v1/namespaces/{place}/rayjobs")["items"]
        states = [job.get("status", {}).get("jobDeploymentStatus") for job in jobs]
        return jobs[0] if states and states[0] in ("Complete", "Failed") else None

    job = site.wait("the training", ended, TRAINING_S)
    assert job["status"]["jobStatus"] == "SUCCEEDED", job["status"]


def test_an_upgrade_keeps_what_was_made_and_goes_on_serving(tmp_path: Path) -> None:
    if reason := too_little_disk():
        pytest.skip(reason)
    source = checkout_of(EARLIER, tmp_path / "earlier")
    journey = Journey(Clock(print))
    # Settings as it knew them.
    known = {"access": {}, "models": {MODEL: {**model(), "load_test": True}}}
    with journey.site(tmp_path / "site", source, **known) as site:
        journey.up(site)
        with promoter(site) as connection:

            def command(*arguments: str) -> str:
                with_connection = {"MODELPORT_CONNECTION": str(connection)}
                return site.manager.run(*arguments, more=with_connection).out

            sample = site.project / "models" / MODEL / "sample"
            command("data", "push", DATASET, str(sample))
            with journey.clock.step("train"):
                trained(site)
            (row,) = json.loads(command("versions", MODEL, "--json"))
            command("gate", MODEL, row["digest"])
            command("promote", MODEL, row["digest"], "--why", "before the upgrade")
            site.wait("it to serve", lambda: site.model()["release"] == row["digest"])
            (row,) = json.loads(command("versions", MODEL, "--json"))
            sets = command("data", "list", DATASET)
        volumes = claims(site)

        site.renew()
        with site.asked() as answers:
            before = len(answers())
            with journey.clock.step("upgrade") as said:
                changes = site.up()
                said.append(f"{len(changes.created)} new, {len(changes.of('update'))} changed")
            site.wait("predictions", lambda: ten_right(answers()))
            during = answers()[before:]
        tell("`pulumi up` over the stack of an earlier commit", during, "one server, one gateway")
        assert {one.release for one in during if one.release} == {row["digest"]}

        assert claims(site) == volumes, "no volume is another one"
        assert site.manager.connected("versions", MODEL, "--json").json == [row]
        assert site.manager.connected("data", "list", DATASET).out == sets
        journey.releases.append(row["digest"])
        journey.predict(site)
        (entry,) = json.loads(site.log_of_promotions())["entries"]
        assert entry["why"] == "before the upgrade"
        again = site.scientist.connected("train", MODEL).out
        assert "has trained this code on this data" in again, again
        assert site.engine.preview().empty


def claims(site: Site) -> dict[str, str]:
    """Volumes by claim."""
    items = site.cluster.get("/api/v1/persistentvolumeclaims")["items"]
    return {f"{item['metadata']['namespace']}/{item['metadata']['name']}": item["spec"]["volumeName"] for item in items}
