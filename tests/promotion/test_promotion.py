"""The desired version changes by one writer at a time, on evidence, and there is always a way back."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelport.connection import Role
from modelport.contract import find_model
from modelport.data import load_heldout, push
from modelport.errors import BadInput, Conflict, GateFailed, ModelportError, Refused
from modelport.imaging import encode_png
from modelport.objects import ObjectStore
from modelport.promotion import LogEntry, Pins, desired, read_log, read_pins, rollback
from modelport.promotion.log import append, log_key
from modelport.release import MANIFEST_FILE, Release, sha256, staging_prefix
from tests.promotion.promotion_bench import CLOSE, GOOD, WORSE, Bench
from tests.serving import tiny_release as tiny


def test_promote(bench: Bench) -> None:
    digest = bench.stage()
    evidence = bench.gate()
    changed = bench.promote(why="first one")
    assert (changed.digest, changed.before) == (digest, None)

    log = read_log(bench.store, bench.model)
    (made,) = log.entries
    assert desired(log) == digest
    assert (made.seq, made.action, made.from_, made.to, made.why) == (1, "promote", None, digest, "first one")
    assert made.evidence == evidence.key
    assert made.evidence_sha256 == sha256(bench.store.get(evidence.key))
    assert "@" in made.who
    bench.fetched(digest)  # as a server: complete, and every digest right
    assert bench.registry.aliases(bench.model) == {"champion": digest}
    assert bench.warnings == []

    again = bench.promote()
    assert again.entry is None
    assert len(read_log(bench.store, bench.model).entries) == 1


def test_promote_needs_evidence(bench: Bench) -> None:
    digest = bench.stage()
    with pytest.raises(GateFailed, match="no evidence") as caught:
        bench.promote()
    assert f"modelport gate {bench.model} {digest[:12]}" in str(caught.value)
    assert bench.released(digest) == []


@pytest.mark.parametrize("desired_now", [True, False])
def test_promoting_again_mends_what_was_damaged_at_the_store(bench: Bench, desired_now: bool) -> None:
    digest = bench.promoted()
    if not desired_now:
        bench.promoted(CLOSE)
        bench.gate(digest)  # against the champion that it is to replace
    place = f"releases/{digest}"
    bench.store.put(f"{place}/network/model.onnx", b"damage")
    bench.store.delete(f"{place}/preprocess/model.onnx")
    with pytest.raises(ModelportError):
        bench.fetched(digest)

    bench.promote(digest)
    assert bench.fetched(digest).digest == digest
    assert desired(read_log(bench.store, bench.model)) == digest


def test_changed_rules_want_a_new_gate(bench: Bench) -> None:
    bench.stage()
    bench.gate()
    file = bench.root / "models" / bench.model / "model.yaml"
    file.write_text(file.read_text().replace("minimum: 0.9", "minimum: 0.91"))
    with pytest.raises(GateFailed, match="evidence only under other rules"):
        bench.promote()


def test_release_that_was_overwritten_after_the_gate(bench: Bench) -> None:
    digest = bench.stage()
    bench.gate()
    bench.trainer.put(f"{staging_prefix(bench.model)}/{digest}/network/model.onnx", b"what was never gated")
    with pytest.raises(BadInput, match=r"network/model\.onnx: does not have the digest"):
        bench.promote()
    assert bench.released(digest) == []
    assert read_log(bench.store, bench.model).entries == ()

    # The manifest too: then the digest is another one, of which there is no evidence.
    other = bench.root / "made" / bench.stage(CLOSE)
    bench.trainer.put(f"{staging_prefix(bench.model)}/{digest}/{MANIFEST_FILE}", (other / MANIFEST_FILE).read_bytes())
    with pytest.raises(BadInput, match=rf"{MANIFEST_FILE}: has digest"):
        bench.promote(digest)
    assert bench.released(digest) == []


def test_forged_evidence_of_another_release(bench: Bench) -> None:
    good, other = bench.stage(GOOD), bench.stage(CLOSE)
    key = bench.gate(good).key
    bench.store.put(key.replace(good, other), bench.store.get(key))
    with pytest.raises(BadInput, match="is evidence of something else"):
        bench.promote(other)


def easy_data(bench: Bench) -> str:
    """Another dataset: what is held out is the redness of a release that finds too little."""
    place = bench.root / "easy"
    shutil.copytree(bench.data, place)
    for number, mask in enumerate(sorted((place / "validation" / "masks").iterdir())):
        pixels = tiny.image(100 + number, 50, 80)
        (place / "validation" / "images" / mask.name).write_bytes(encode_png(pixels))
        mask.write_bytes(encode_png(((pixels[:, :, 0] > 255 * WORSE) * 255).astype(np.uint8)))
    return str(place)


def test_passing_on_other_images_does_not_outvote_the_held_out_ones(bench: Bench) -> None:
    digest, easy = bench.stage(WORSE), easy_data(bench)
    assert not bench.gate(digest).passed
    assert bench.gate(digest, heldout=easy).passed
    # Nothing was pushed: none of the two is known to be what counts.
    with pytest.raises(GateFailed, match=r"failed the gate on one of 2 held-out splits: dice") as caught:
        bench.promote(digest)
    assert "push the dataset that counts, or name it to promote with --data" in str(caught.value)

    push(bench.model, bench.data, find_model(bench.model).spec, bench.store)
    with pytest.raises(GateFailed, match=r"failed the gate: dice .* misses the minimum"):
        bench.promote(digest)
    other = bench.stage(0.66)
    bench.gate(other, heldout=easy)
    with pytest.raises(GateFailed, match=r"on other images than the held-out ones of s3://.*/datasets/") as caught:
        bench.promote(other)
    where = f"s3://{bench.store.bucket}/datasets/{bench.model}"
    assert f"run `modelport gate {bench.model} {other[:12]} --data {where}`" in str(caught.value)
    assert bench.released(other) == bench.released(digest) == []

    # A promoter who says that these images are to decide is taken at their word, and the log says what they were.
    assert read_log(bench.store, bench.model).entries == ()
    made = bench.promote(digest, heldout=easy).entry
    assert made is not None
    assert made.evidence is not None
    assert load_heldout(easy, find_model(bench.model).spec, store=None, cache=bench.root).digest in made.evidence


def test_the_pushed_split_counts_wherever_it_was_gated_on(bench: Bench) -> None:
    easy = easy_data(bench)
    push(bench.model, bench.data, find_model(bench.model).spec, bench.store)
    digest = bench.stage()
    bench.gate(digest)  # in its folder: the same images, by their digest
    assert not bench.gate(digest, heldout=easy).passed
    bench.promote(digest)
    assert desired(read_log(bench.store, bench.model)) == digest


def test_trainer_can_make_nothing_serve(bench: Bench) -> None:
    served = bench.promoted()
    digest = bench.stage(CLOSE)
    key = bench.gate(digest).key
    trainer = bench.trainer
    log = bench.store.get(log_key(bench.model))
    with pytest.raises(Refused):
        trainer.get(log_key(bench.model))
    for attempt in (
        lambda: trainer.put(log_key(bench.model), log),
        lambda: trainer.replace(log_key(bench.model), log, None),
        lambda: trainer.replace(log_key(bench.model), log, read_log(bench.store, bench.model).etag),
        lambda: trainer.delete(log_key(bench.model)),
        lambda: trainer.put(key, b"{}"),
        lambda: trainer.put(f"releases/{digest}/{MANIFEST_FILE}", b"{}"),
        lambda: trainer.put(f"releases/{served}/network/model.onnx", b"another graph"),
        lambda: trainer.put_new(f"releases/{'0' * 64}/{MANIFEST_FILE}", b"{}"),
        lambda: trainer.delete(f"releases/{served}/{MANIFEST_FILE}"),
        lambda: trainer.put(f"replicas/{bench.model}/r.json", b"{}"),
    ):
        with pytest.raises(Refused):
            attempt()
    with pytest.raises(ModelportError):
        trainer.put(f"staging/../releases/{served}/network/model.onnx", b"another graph")
    with pytest.raises(Refused):
        bench.promote(digest, connection=bench.connection.restricted_to(Role.TRAINER))
    # With its own key under the promoter's name: the store is what refuses, not our code.
    disguised = bench.connection.model_copy(update={"s3_keys": {Role.PROMOTER: bench.connection.s3_keys[Role.TRAINER]}})
    with pytest.raises(Refused):
        bench.promote(digest, connection=disguised)
    assert desired(read_log(bench.store, bench.model)) == served
    assert bench.fetched(served).digest == served


def test_one_of_many_writers_wins(bench: Bench) -> None:
    bench.served()
    log = read_log(bench.store, bench.model)
    candidates = [bench.entry(sha256(str(number).encode()), who=f"writer {number}") for number in range(6)]
    start = threading.Barrier(len(candidates))

    def write(made: LogEntry) -> str:
        start.wait(timeout=10)
        try:
            append(bench.store, log, made)
        except Conflict as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(candidates)) as pool:
        answers = list(pool.map(write, candidates))
    assert answers.count("") == 1, answers
    winner = candidates[answers.index("")]
    now = read_log(bench.store, bench.model)
    assert now.entries == (*log.entries, winner)
    for answer in filter(None, answers):
        assert f"{winner.who} made {winner.to[:12]} the desired version" in answer


def test_lost_answer_is_not_a_lost_race(bench: Bench) -> None:
    # The client writes again when the answer to the first write was lost: the second one meets the first.
    log = read_log(bench.store, bench.model)
    made = bench.entry("a" * 64)
    append(bench.store, log, made)
    assert append(bench.store, log, made).entries == (made,)
    assert read_log(bench.store, bench.model).entries == (made,)


def test_two_commands_at_once(bench: Bench) -> None:
    digests = [bench.stage(GOOD), bench.stage(CLOSE)]
    for digest in digests:
        bench.gate(digest)
    commands = [[sys.executable, "-m", "modelport", "promote", bench.model, digest[:12]] for digest in digests]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate(timeout=120)[1] for process in running]
    codes = [process.returncode for process in running]
    # The other one is too late for the write, or was even too late to read the log: then its evidence is.
    assert sorted(codes) in ([0, Conflict.exit_code], [0, GateFailed.exit_code]), errors
    (made,) = read_log(bench.store, bench.model).entries
    assert made.to == digests[codes.index(0)]


KILLED_BEFORE_THE_MANIFEST = f"""
import os, signal
from modelport.cli import main
from modelport.objects import ObjectStore

write = ObjectStore.put

def put(store, key, data):
    if key.startswith("releases/") and key.endswith("/{MANIFEST_FILE}"):
        os.kill(os.getpid(), signal.SIGKILL)
    write(store, key, data)

ObjectStore.put = put
main()
"""
"""The same command, killed at the worst moment: everything is copied, and nothing says so yet."""


def test_killed_and_finished(bench: Bench) -> None:
    digest = bench.stage()
    bench.gate()
    arguments = ["promote", bench.model]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_THE_MANIFEST, *arguments], capture_output=True, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert bench.released(digest)
    assert MANIFEST_FILE not in bench.released(digest)
    assert read_log(bench.store, bench.model).entries == ()
    subprocess.run([sys.executable, "-m", "modelport", *arguments], capture_output=True, timeout=120, check=True)
    (made,) = read_log(bench.store, bench.model).entries
    assert made.to == digest
    bench.fetched(digest)


@pytest.mark.parametrize("change", ["to", "who", "drop", "text"])
def test_log_that_was_changed_by_hand(bench: Bench, change: str) -> None:
    for number in range(3):
        append(bench.store, read_log(bench.store, bench.model), bench.entry(sha256(str(number).encode())))
    document = json.loads(bench.store.get(log_key(bench.model)))
    if change == "drop":
        del document["entries"][1]
    elif change != "text":
        document["entries"][1][change] = "b" * 64
    bench.store.put(log_key(bench.model), b"no json" if change == "text" else json.dumps(document).encode())
    with pytest.raises(BadInput, match=r"log\.json"):
        read_log(bench.store, bench.model)


def test_rollback(bench: Bench) -> None:
    first, second = bench.served(GOOD), bench.served(CLOSE)
    changed = rollback(bench.model, connection=bench.connection, why="it misses flat ones", warn=bench.warnings.append)
    assert (changed.before, changed.digest) == (second, first)
    made = read_log(bench.store, bench.model).entries[-1]
    assert (made.seq, made.action, made.from_, made.to) == (3, "rollback", second, first)
    assert made.why == "it misses flat ones"
    assert bench.registry.aliases(bench.model) == {"champion": first}
    # Back again by name.
    rollback(bench.model, second[:10], connection=bench.connection)
    assert desired(read_log(bench.store, bench.model)) == second
    assert bench.warnings == []


def test_rollback_needs_no_model_folder(bench: Bench) -> None:
    first, _ = bench.served(GOOD), bench.served(CLOSE)
    (bench.root / "models" / bench.model / "model.yaml").write_text("broken: [")
    assert rollback(bench.model, connection=bench.connection).digest == first


def test_no_way_back(bench: Bench) -> None:
    with pytest.raises(BadInput, match="was ever promoted"):
        rollback(bench.model, connection=bench.connection)
    first = bench.served(GOOD)
    with pytest.raises(BadInput, match="the desired one is the first"):
        rollback(bench.model, connection=bench.connection)
    staged = bench.stage(CLOSE)
    with pytest.raises(BadInput, match="was never promoted"):
        rollback(bench.model, staged, connection=bench.connection)
    assert bench.served(CLOSE) == staged
    for row in list(bench.trainer.list(f"{staging_prefix(bench.model)}/{first}/")):
        bench.trainer.delete(row.key)
    bench.store.put(f"releases/{first}/network/model.onnx", b"damage")
    with pytest.raises(BadInput, match="no longer kept: a file of it does not have the digest that the manifest says"):
        rollback(bench.model, connection=bench.connection)
    bench.store.delete(f"releases/{first}/{MANIFEST_FILE}")
    with pytest.raises(BadInput, match="is no longer kept: is not there, and has expired from staging"):
        rollback(bench.model, connection=bench.connection)
    assert desired(read_log(bench.store, bench.model)) == staged


def test_rollback_mends_where_it_goes(bench: Bench) -> None:
    first, _ = bench.served(GOOD), bench.served(CLOSE)
    bench.store.put(f"releases/{first}/network/model.onnx", b"damage")
    assert rollback(bench.model, connection=bench.connection).digest == first
    assert bench.fetched(first).digest == first
    bench.store.delete(f"releases/{first}/{MANIFEST_FILE}")
    assert rollback(bench.model, first, connection=bench.connection).entry is None
    assert MANIFEST_FILE in bench.released(first)


def test_a_release_that_is_removed_while_it_becomes_desired(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = bench.served(GOOD), bench.served(CLOSE)

    def append_and_lose(*arguments: object) -> None:
        append(*arguments)  # pyright: ignore[reportArgumentType]
        bench.store.delete(f"releases/{first}/{MANIFEST_FILE}")

    monkeypatch.setattr("modelport.promotion.promoting.append", append_and_lose)
    with pytest.raises(ModelportError, match="is desired now, and was removed") as told:
        rollback(bench.model, connection=bench.connection)
    assert f"rollback {bench.model} --to {first[:12]}" in str(told.value)
    monkeypatch.undo()
    rollback(bench.model, first, connection=bench.connection)
    assert bench.fetched(first).digest == first


def test_pins(bench: Bench, tmp_path: Path) -> None:
    first, second = bench.served(GOOD), bench.served(CLOSE)
    file = tmp_path / "pins.yaml"
    file.write_text(f"# under review\nother: {'a' * 64}\n{bench.model}: {second}\n")
    pins = read_pins(file)
    third = bench.stage(0.5001)
    bench.gate(third)
    entries = read_log(bench.store, bench.model).entries
    with pytest.raises(Refused) as caught:
        bench.promote(third, pins=pins)
    message = str(caught.value)
    assert f"-{bench.model}: {second}\n+{bench.model}: {third}" in message
    assert "under review" not in message.partition("@@")[2].replace("# under review", ""), "one line of context"
    with pytest.raises(Refused, match="is pinned to"):
        rollback(bench.model, connection=bench.connection, pins=pins)
    assert read_log(bench.store, bench.model).entries == entries
    assert bench.released(third) == []

    rollback(bench.model, connection=bench.connection, pins=pins, force=True, why="fire")
    made = read_log(bench.store, bench.model).entries[-1]
    assert (made.to, made.forced_over_pin, made.why) == (first, second, "fire")
    # What does not pass the gate is told so, and not that a pin is in the way.
    with pytest.raises(GateFailed):
        bench.promote(bench.stage(0.9), pins=pins)


@pytest.mark.parametrize("text", ["[]", "a: 5", "a: abc", "a: [", "? : x"])
def test_pins_that_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pins.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"pins\.yaml"):
        read_pins(file)


def test_no_pins(tmp_path: Path) -> None:
    assert read_pins(None) == Pins()
    (tmp_path / "pins.yaml").write_text("")
    assert read_pins(tmp_path / "pins.yaml").digests == {}
    with pytest.raises(BadInput, match="no such file"):
        read_pins(tmp_path / "none.yaml")


def test_release_is_copied_as_it_was_gated(bench: Bench) -> None:
    digest = bench.promoted()
    store = ObjectStore.connect(bench.connection, Role.SERVER)
    made = Release.open(bench.root / "made" / digest, digest)
    for path in made.manifest.files:
        assert store.get(f"releases/{digest}/{path}") == made.read(path)
