"""Faults where a model has two servers, and the object store a disk that gets full. At last the cluster is lost."""

import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components import ports
from infra.network import Namespace
from tests.cluster.one_node import why_not
from tests.whole.asker import Answer, ten_right
from tests.whole.clock import Clock
from tests.whole.conftest import Lived
from tests.whole.document import run_commands
from tests.whole.journey import Journey
from tests.whole.laptop import Said
from tests.whole.site import PROJECT
from tests.whole.stack import DATASET, MODEL, TWO_SERVERS
from tests.whole.test_faults import DAMAGE
from tests.whole.told import TOLD, Seen, tell

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(1800),
]

SETTINGS = TWO_SERVERS
EPOCHS = 14


@pytest.fixture(scope="module")
def second(lived: Lived) -> str:
    """A second release, whose training loses its head on the way."""
    return trained_without_its_head(lived)


def trained_without_its_head(lived: Lived) -> str:
    """Digest of a release whose training lost its head; it has passed the gate."""
    site, found = lived.site, list[Said]()
    options = ("train", MODEL, "--set", "train.seed=1", "--set", f"train.epochs={EPOCHS}")
    with site.asked() as answers:
        thread = threading.Thread(target=lambda: found.append(site.scientist.connected(*options, code=None)))
        thread.start()
        site.wait("two epochs", lambda: any(f"epoch 3/{EPOCHS}" in log for log in site.training_logs()))
        before = len(answers())
        assert site.delete_ray_pods("head")
        thread.join(timeout=900)
        during = answers()[before:]
    assert found, "the training did not end"
    (said,) = found
    by_itself = said.code == 0
    if not by_itself:
        # What a user is told to do then.
        assert "--again" in said.errors, said.errors
        again = site.scientist.connected(*options, "--again")
        said = Said(said.out + again.out, again.errors, again.code)
    seen = tell(
        "the head of a training deleted",
        during,
        "the training went on by itself" if by_itself else "the training went on with `train --again`",
    )
    assert seen.failed == 0
    epochs = [int(number) for number in re.findall(rf"^epoch (\d+)/{EPOCHS} (?!.*step)", said.out, re.MULTILINE)]
    assert epochs[-1:] == [EPOCHS], said.out
    assert epochs.count(1) == 1, f"the training began anew instead of going on: {epochs}"
    digest: str = site.manager.connected("versions", MODEL, "--json").json[0]["digest"]
    site.manager.connected("gate", MODEL, digest)
    return digest


def test_a_training_whose_head_is_deleted_ends_in_a_release(lived: Lived, second: str) -> None:
    rows = {row["digest"]: row for row in lived.site.manager.connected("versions", MODEL, "--json").json}
    assert set(rows) == {lived.journey.releases[0], second}
    assert rows[second]["version"] == 2


def releases_of(answers: list[Answer]) -> list[str]:
    """Releases that answered, in order, those in a row once."""
    named = [one.release for one in answers if one.release]
    return [name for number, name in enumerate(named) if number == 0 or named[number - 1] != name]


def test_no_server_answers_with_a_release_that_another_has_not_loaded(lived: Lived, second: str) -> None:
    site, first = lived.site, lived.journey.releases[0]
    early, late = site.servers()
    with site.asked() as answers, ThreadPoolExecutor() as pool:
        before = len(answers())
        with site.cluster.cut_off(Namespace.SERVING, late, ports.OBJECT_STORE):
            promoted = pool.submit(site.manager.connected, "promote", MODEL, second, "--why", "under load")
            site.wait("one server to have it", lambda: site.loaded_at(early, second))
            alone = len(answers())
            # Not for long: after a minute that server gives the first release up, and goes on without the other.
            site.wait("more answers", lambda: len(answers()) > alone + 50)
            assert {one.release for one in answers()[alone:]} == {first}, "the other server has it not"
        promoted.result()
        site.wait("all to have it", lambda: [one.release for one in answers()[-20:]] == [second] * 20)
        during = answers()[before:]
    loaded = [site.loaded_at(pod, second) or 0.0 for pod in (early, late)]
    changed = next(one for one in during if one.release == second)
    remark = f"one server had the new release {abs(loaded[1] - loaded[0]):.1f} s before the other"
    assert tell("a changeover of two servers, one of them cut off from the store", during, remark).failed == 0
    assert releases_of(during) == [first, second], "no way back, no mix"
    assert changed.ended > max(loaded)

    site.manager.connected("rollback", MODEL)
    site.wait("the first release to serve", lambda: site.model()["release"] == first)


DAMAGED_MEANWHILE = f"""
import sys
from modelport.connection import Connection
from modelport.promotion import promoting, rollback

append = promoting.append

def damaged(*arguments):
    exec({DAMAGE!r}, {{}})
    append(*arguments)

promoting.append = damaged
rollback({MODEL!r}, sys.argv[1], connection=Connection.load())
"""


def test_a_release_that_was_damaged_in_the_store_leaves_the_one_before_serving(lived: Lived, second: str) -> None:
    site, first = lived.site, lived.journey.releases[0]
    with site.asked() as answers:
        before = len(answers())
        # New servers, which have no copy of the second release.
        site.rollout(Namespace.SERVING, "deployment", f"triton-{MODEL.replace('_', '-')}")
        assert tell("both servers replaced, one after the other", answers()[before:]).failed == 0

        before = len(answers())
        # A rollback mends what was damaged before it.
        site.manager.program("--role", "promoter", "--", sys.executable, "-c", DAMAGED_MEANWHILE, second)
        site.wait("the damage to be told", lambda: "corrupted" in (site.model()["error"] or ""))
        site.wait("both agents", lambda: all("is refused" in site.agent_log(pod) for pod in site.servers()))
        later = len(answers())
        site.wait("more answers", lambda: len(answers()) > later + 20)
        told = site.manager.connected("status", MODEL).out
        assert "corrupted" in told, told
        assert site.model()["release"] == first

        # As docs/operate.md has it.
        site.manager.connected("rollback", MODEL)
        site.manager.connected("promote", MODEL, second, "--why", "mended")
        site.wait("the mended release to serve", lambda: site.model()["release"] == second)
        during = answers()[before:]
    assert tell("a new release damaged in the store, then mended", during).failed == 0
    assert releases_of(during)[0] == first
    assert set(releases_of(during)) <= {first, second}
    site.manager.connected("rollback", MODEL)
    site.wait("the first release to serve", lambda: site.model()["release"] == first)


def other_data(project: Path, folder: Path) -> Path:
    """The sample with one image that is another."""
    folder.mkdir()
    sample = project / "models" / MODEL / "sample"
    for file in sample.rglob("*"):
        if file.is_file() and file.suffix != ".md" and "golden" not in file.parts:
            copy = folder / file.relative_to(sample)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    image = min((folder / "train" / "images").iterdir())
    with Image.open(image) as opened:
        opened.convert("RGB").rotate(180).save(image)
    return folder


def test_a_full_object_store_refuses_what_is_new_and_loses_nothing(lived: Lived, second: str, tmp_path: Path) -> None:
    site, first = lived.site, lived.journey.releases[0]
    data = other_data(site.project, tmp_path / "other")
    rows = site.manager.connected("versions", MODEL, "--json").json
    sets = site.manager.connected("data", "list", DATASET).out
    log = site.log_of_promotions()
    with site.asked() as answers:
        before = len(answers())
        print("the store says:", site.fill_store())
        try:
            for command in (("data", "push", DATASET, str(data)), ("promote", MODEL, second)):
                refused = site.manager.connected(*command, code=5)
                assert "is full" in refused.errors, refused.errors
            full = len(answers())
            site.wait("more answers", lambda: len(answers()) > full + 20)
            assert site.manager.connected("versions", MODEL, "--json").json == rows
            assert site.manager.connected("data", "list", DATASET).out == sets
            assert site.log_of_promotions() == log
        finally:
            site.make_room()
        site.manager.connected("data", "push", DATASET, str(data))
        site.manager.connected("promote", MODEL, second)
        site.wait("the second release to serve", lambda: site.model()["release"] == second)
        during = answers()[before:]
    assert tell("the object store full", during, "push and promotion refused until there was room").failed == 0
    assert len(site.manager.connected("data", "list", DATASET).out.splitlines()) == 2
    site.manager.connected("rollback", MODEL)
    site.wait("the first release to serve", lambda: site.model()["release"] == first)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Versions without when they were staged, which is when their objects were written, in another order."""
    return sorted(
        ({key: value for key, value in row.items() if key != "staged"} for row in rows), key=lambda row: row["digest"]
    )


def digests(listing: str) -> set[str]:
    """Versions of a dataset in a listing."""
    return {line.split()[0] for line in listing.splitlines()}


def test_everything_is_restored_into_an_empty_cluster_as_the_page_says(
    lived: Lived, second: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The last one: the stack's own cluster goes."""
    page, folder = PROJECT / "docs" / "restore.md", tmp_path_factory.mktemp("restored")
    site = lived.site
    rows = site.manager.connected("versions", MODEL, "--json").json
    sets = site.manager.connected("data", "list", DATASET).out
    log = site.log_of_promotions()
    run_commands(page, "Back up", site.cluster.kubeconfig, folder)
    lost = time.monotonic()
    site.cluster.stop()

    journey = Journey(Clock(print), lived.journey.releases)
    with journey.site(folder / "site") as site:
        journey.up(site)
        assert site.manager.connected("versions", MODEL, "--json").json == []
        run_commands(page, "Restore", site.cluster.kubeconfig, folder)
        site.up("--refresh")
        site.wait("the release to serve", lambda: site.model()["release"] == lived.journey.releases[0])
        journey.predict(site)
        seconds = round(time.monotonic() - lost, 1)
        TOLD.append(
            Seen("the whole cluster lost", 0, 0, seconds, "restored into an empty one; nobody could ask meanwhile")
        )
        assert without_times(site.manager.connected("versions", MODEL, "--json").json) == without_times(rows)
        assert digests(site.manager.connected("data", "list", DATASET).out) == digests(sets)
        assert site.log_of_promotions() == log
        differences = site.manager.connected("status", MODEL, "--json").json["differences"]
        assert differences == [], "registry, log and servers agree"
        site.manager.connected("promote", MODEL, second, "--why", "the way goes on")
        site.wait("the second release to serve", lambda: site.model()["release"] == second)
        with site.asked() as answers:
            site.wait("predictions", lambda: ten_right(answers()))
        assert site.engine.preview().empty
