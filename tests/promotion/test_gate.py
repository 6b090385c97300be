"""The gate: honest, by the promoter's rules, on graphs alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelport.connection import Role
from modelport.contract import ClassSpec, Task
from modelport.errors import BadInput, GateFailed, Refused
from modelport.imaging import decode, decode_mask
from modelport.objects import ObjectStore
from modelport.promotion import Evidence, read_log
from modelport.promotion.catalogue import staged_releases
from modelport.promotion.isolation import REFUSED, REFUSED_PREFIX
from modelport.release import (
    MANIFEST_FILE,
    TRAINING_DATA_FILE,
    Release,
    Runtime,
    canonical_json,
    staging_prefix,
    tolerances_for,
)
from tests.promotion.promotion_bench import BAD, CLOSE, GOOD, WORSE, Bench
from tests.serving import tiny_release as tiny


def test_evidence(bench: Bench) -> None:
    digest = bench.stage()
    evidence = bench.gate()

    # The same number by another way: masks of the runtime, Dice by sets, mean over images at their own sizes.
    release = Release.fetch(bench.store, staging_prefix(bench.model), digest, bench.root / "mine")
    runtime, values = Runtime(release), {}
    for file in sorted((bench.root / "data/validation/images").iterdir()):
        mask = runtime.predict(decode(file.read_bytes()))["mask"].astype(bool)
        truth = decode_mask((bench.root / "data/validation/masks" / file.name).read_bytes(), 2).astype(bool)
        values[file.stem] = 2 * np.sum(mask & truth) / (np.sum(mask) + np.sum(truth))
    assert evidence.value == pytest.approx(np.mean(list(values.values())))
    assert {image.id: image.scores["dice"] for image in evidence.images} == pytest.approx(values)
    assert evidence.passed, evidence.reasons
    assert evidence.release == digest
    assert evidence.interval.low <= evidence.value <= evidence.interval.high
    assert evidence.interval.low < evidence.interval.high
    assert evidence.rules.minimum == 0.9
    assert evidence.rules.minimum_from == f"models/{bench.model}/model.yaml gate.minimum"
    assert evidence.champion is None
    assert evidence.leak_check.model_dump() == {"heldout_images": 6, "training_images": 4, "shared": 0}
    assert {"onnxruntime", "numpy", "modelport", "python"} <= set(evidence.versions)

    stored = bench.store.get(evidence.key)
    assert evidence.key.startswith(f"promotions/{bench.model}/evidence/{digest}/{evidence.heldout_digest}-")
    assert Evidence.model_validate_json(stored) == evidence
    row = bench.registry.find(bench.model, digest)
    assert row is not None
    assert row.tags["modelport.gate"] == evidence.summary()
    assert bench.registry.aliases(bench.model) == {"challenger": digest}
    assert bench.warnings == []


def test_evidence_is_the_same_when_the_gate_runs_again(bench: Bench) -> None:
    bench.stage()
    first, second = bench.gate(), bench.gate()
    assert (first.key, first.value, first.interval) == (second.key, second.value, second.interval)


def test_a_bad_release_is_registered_and_not_promoted(bench: Bench) -> None:
    digest = bench.stage(BAD)
    evidence = bench.gate()
    assert not evidence.passed
    assert "misses the minimum 0.9" in evidence.reasons[0]
    assert bench.registry.aliases(bench.model) == {}
    with pytest.raises(GateFailed, match="failed the gate: dice"):
        bench.promote()
    assert bench.released(digest) == []
    assert read_log(bench.store, bench.model).entries == ()
    row = bench.registry.find(bench.model, digest)
    assert row is not None
    assert row.tags["modelport.gate"].startswith("failed: dice")


def test_rules_are_the_promoters_not_the_releases(bench: Bench) -> None:
    # A trainer who writes a lower minimum into the release's model.yaml gains nothing.
    lenient = b"name: x\ngate: {metric: dice, minimum: 0.0}\n"
    bench.stage(BAD, changes={"model.yaml": lenient})
    assert not bench.gate().passed


def test_another_minimum_is_said_and_counts_only_where_it_is_said_again(bench: Bench) -> None:
    digest = bench.stage(WORSE)
    assert not bench.gate().passed
    evidence = bench.gate(minimum=0.3)
    assert evidence.passed
    assert evidence.rules.minimum_from == "the --minimum option"
    with pytest.raises(GateFailed, match=r"misses the minimum 0\.9"):
        bench.promote()
    bench.promote(minimum=0.3)
    assert read_log(bench.store, bench.model).entries[-1].to == digest


def test_champion_and_margin(bench: Bench) -> None:
    champion = bench.promoted(GOOD)
    same = bench.gate(bench.stage(CLOSE))
    assert same.champion is not None
    assert same.champion.digest == champion
    assert same.passed, "a negative margin lets it be a little worse"
    worse = bench.gate(bench.stage(WORSE), minimum=0.5)
    assert not worse.passed
    assert worse.champion is not None
    assert f"does not hold against the champion's {worse.champion.value:.4f}" in worse.reasons[0]
    assert "margin of -0.02" in worse.reasons[0]
    assert bench.gate(champion).champion is None, "the champion is not compared with itself"


def test_new_champion_wants_a_new_gate(bench: Bench) -> None:
    first, second = bench.stage(GOOD), bench.stage(CLOSE)
    bench.gate(first)
    bench.gate(second)
    bench.promote(first)
    with pytest.raises(GateFailed, match="against another champion"):
        bench.promote(second)
    bench.gate(second)
    bench.promote(second)


def test_leaked_images_are_refused(bench: Bench) -> None:
    leaked = bench.images("validation")[2:4]
    bench.stage(changes={TRAINING_DATA_FILE: canonical_json({"images": [*bench.images("train"), *leaked]})})
    with pytest.raises(BadInput, match=r"2 of 6 held-out images were trained on.*validation/images/12\.png"):
        bench.gate()
    unknown = bench.stage(changes={TRAINING_DATA_FILE: canonical_json({"images": []})})
    with pytest.raises(BadInput, match="names no image"):
        bench.gate(unknown)
    assert list(bench.store.list(f"promotions/{bench.model}/")) == [], "there is no evidence of what is not evidence"


def test_two_releases_of_the_same_second(bench: Bench) -> None:
    digests = [bench.stage(GOOD), bench.stage(CLOSE)]
    for _ in range(10):  # until no second ends in between
        for digest in digests:
            key = f"{staging_prefix(bench.model)}/{digest}/{MANIFEST_FILE}"
            bench.trainer.put(key, bench.trainer.get(key))
        if len({row.time for row in staged_releases(bench.store, bench.model)}) == 1:
            break
    with pytest.raises(BadInput, match=r"2 releases of \w+ were staged last, at the same time: [0-9a-f]{12}, "):
        bench.gate()


def test_flipped_channels_show_in_the_golden_samples(bench: Bench) -> None:
    bench.stage(flipped=True)
    evidence = bench.gate(minimum=0.0)
    assert not evidence.passed
    assert "the graphs do not give the golden outputs: ramp.png: " in evidence.reasons[0]


def test_release_that_cannot_answer(bench: Bench) -> None:
    bench.stage(changes={"network/model.onnx": b"no graph"})
    with pytest.raises(GateFailed, match=r"the graphs of release .* cannot be loaded"):
        bench.gate()


def test_other_classes(bench: Bench) -> None:
    bench.stage(classes=(ClassSpec(name="background"), ClassSpec(name="blue")))
    with pytest.raises(BadInput, match=r"classes: is .*blue.* but .*red.* in the promoter"):
        bench.gate()


def test_champion_of_other_classes_is_not_compared(bench: Bench) -> None:
    bench.promoted()
    file = bench.root / "models" / bench.model / "model.yaml"
    file.write_text(file.read_text().replace("{name: red}", "{name: crimson}"))
    evidence = bench.gate(bench.stage(classes=(ClassSpec(name="background"), ClassSpec(name="crimson"))))
    assert evidence.passed
    assert evidence.champion is not None
    assert evidence.champion.value is None
    assert "not compared: classes" in (evidence.champion.note or "")


def test_staged_release_that_was_changed(bench: Bench) -> None:
    digest = bench.stage()
    bench.trainer.put(f"{staging_prefix(bench.model)}/{digest}/network/model.onnx", b"another graph")
    with pytest.raises(BadInput, match=r"network/model\.onnx: does not have the digest"):
        bench.gate()


def test_names_of_releases(bench: Bench) -> None:
    digest = bench.stage()
    assert bench.gate(digest[:8]).release == digest
    assert bench.gate("v1").release == digest
    with pytest.raises(BadInput, match=r"no release of .* begins with 'ffff00'"):
        bench.gate("ffff00")
    with pytest.raises(BadInput, match="no version v9"):
        bench.gate("v9")
    bench.stage(CLOSE)
    with pytest.raises(BadInput, match="more than one"):
        bench.gate("")


def test_nothing_staged(bench: Bench) -> None:
    with pytest.raises(BadInput, match=r"no release of .* is staged"):
        bench.gate()


def test_trainer_cannot_gate(bench: Bench) -> None:
    bench.stage()
    with pytest.raises(Refused, match="no promoter identity"):
        bench.gate(connection=bench.connection.restricted_to(Role.TRAINER))


def test_held_out_split_on_the_store(bench: Bench) -> None:
    from modelport.contract import find_model
    from modelport.data import push

    pushed = push(bench.model, bench.root / "data", find_model(bench.model).spec, bench.store)
    bench.stage()
    local = bench.gate()
    shutil.rmtree(bench.root / "data")
    assert pushed.heldout == 6
    stored = bench.gate(heldout=None)
    assert stored.heldout_digest == local.heldout_digest
    assert stored.value == local.value
    with pytest.raises(Refused):
        list(bench.trainer.list(f"heldout/{bench.model}/"))


def test_the_gates_process_refuses_imports(tmp_path: Path) -> None:
    # The process as it is really started, then imports in it. Modules of these names stand ready to be found.
    modules = [*REFUSED, f"{REFUSED_PREFIX}polyp_seg", "torch.nn", "models.polyp_seg"]
    for name in {module.partition(".")[0] for module in modules}:
        (tmp_path / f"{name}.py").write_text("")
    script = f"""
import importlib, runpy, sys
try:
    runpy.run_module("modelport.promotion.gate_process", run_name="__main__")
except Exception as error:
    print("ended with", type(error).__name__)
sys.path.insert(0, {str(tmp_path)!r})
for module in {modules!r}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(error)
importlib.import_module("json")
"""
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(
        command, input="{}", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "ended with ValidationError"
    refused = [line.split("'")[1] for line in lines[1:] if line.startswith("the gate refuses to import")]
    assert refused == [module.partition(".")[0] for module in modules]


def test_environment_and_folder_cannot_reach_into_the_gate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = bench.root / "trap"
    trap.mkdir()
    for name in ("onnxruntime", "numpy", "sitecustomize", "pydantic"):
        (trap / f"{name}.py").write_text(f"open({str(trap / 'sprung')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", str(trap))
    monkeypatch.chdir(trap)
    bench.stage()
    assert bench.gate().passed
    assert not (trap / "sprung").exists()
    # The trap is one: without the gate's isolation it is sprung.
    subprocess.run([sys.executable, "-c", "import numpy"], cwd=trap, env=os.environ, timeout=60, check=True)
    assert (trap / "sprung").exists()


def test_server_identity_reads_evidence_and_cannot_write_it(bench: Bench) -> None:
    bench.stage()
    key = bench.gate().key
    server = ObjectStore.connect(bench.connection, Role.SERVER)
    assert server.get(key)
    with pytest.raises(Refused):
        server.put(key, b"{}")


def test_release_whose_int8_is_worse_is_not_promoted(bench: Bench) -> None:
    # The tolerances of int8 let its answers differ; what it costs in the metric is the gate's to say.
    int8 = {
        "variants": {"int8": "network/int8.onnx"},
        "tolerances": tolerances_for(Task.SEGMENT, {}, ["fp32", "int8"]),
    }
    worse = bench.stage(changes={"network/int8.onnx": tiny.network(0.475)}, **int8)
    evidence = bench.gate(worse, minimum=0.5)
    assert evidence.value > 0.9
    assert evidence.variants["int8"]["dice"] < evidence.value - 0.01
    (reason,) = evidence.reasons
    assert re.fullmatch(r"int8: dice 0\.\d{4} is 0\.\d{4} worse than fp32's 0\.\d{4}; at most 0\.01 is allowed", reason)
    with pytest.raises(GateFailed, match="failed the gate: int8: dice"):
        bench.promote(worse, minimum=0.5)

    good = bench.stage(changes={"network/int8.onnx": tiny.network(GOOD)}, **int8)
    evidence = bench.gate(good)
    assert evidence.passed, evidence.reasons
    assert evidence.variants == {"int8": evidence.metrics}
    bench.promote(good)
    assert read_log(bench.store, bench.model).entries[-1].to == good
