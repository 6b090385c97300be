"""The life of dev on the real engine: up, nothing more to do, a model more, a model less, another image, drift."""

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.engine.engine import CHANGING, EngineFailed, Step
from tests.infra.conftest import POOL, Up


def of_model(step: Step, dns: str) -> bool:
    """Whether a resource belongs to a model, as its name says."""
    return step.name.startswith(f"{dns}-")


def changing(changes) -> list[Step]:
    return [step for step in changes.steps if step.op in CHANGING]


def test_the_preview_prints_what_goes_where(dev: Up):
    assert dev.first_preview is not None
    assert re.search(r"^\s*polyp_seg +train worker", dev.first_preview.log, re.MULTILINE)
    assert "cpu (spot)" in dev.first_preview.log
    assert (
        "warning: no alert of endoscopy-ml, ml-platform, radiology-ml, road-ml reaches anybody" in dev.first_preview.log
    )


def test_up_makes_what_the_preview_said(dev: Up):
    assert dev.first_preview is not None
    assert {step.urn for step in dev.first_preview.created} == {step.urn for step in dev.first_up.created}


def test_state_lives_in_a_namespace_of_its_own(dev: Up):
    def where(kind: str) -> set[str]:
        return {item["metadata"]["namespace"] for item in dev.cluster.get(kind)["items"]}

    assert where("/apis/apps/v1/statefulsets") == {"modelport-registry", "modelport-serving"}
    names = {item["metadata"]["name"] for item in dev.cluster.get("/api/v1/namespaces")["items"]}
    assert {f"modelport-{part}" for part in ("registry", "training", "serving", "operators", "monitoring")} <= names


def test_the_outputs_tell_a_person_what_to_do_next(dev: Up):
    outputs = dev.engine.outputs()
    assert outputs["cluster"].startswith("gcloud container clusters get-credentials")
    assert outputs["urls"]["gateway"].startswith("http://gateway.modelport-serving")
    assert outputs["models"]["polyp_seg"]["version"] == "follows the promotion log"
    assert "kubectl" in outputs["models"]["polyp_seg"]["train_again"]
    assert "[secret]" not in str(outputs)


def test_a_folder_that_modelport_new_wrote_is_a_model_by_being_there_and_touches_nothing_else(dev: Up):
    models = {"snow_depth": "classify", "rust_map": "segment", "bird_count": "detect"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    before = dev.pods()
    try:
        for name, task in models.items():
            command = [sys.executable, "-m", "modelport", "new", name, "--task", task, "--owner", "tests"]
            made = subprocess.run(command, cwd=dev.project, env=environment, capture_output=True, text=True, timeout=60)
            assert made.returncode == 0, made.stderr
        added = changing(dev.engine.up())
        after = dev.pods()
    finally:
        for name in models:
            if (dev.project / "models" / name).exists():
                dev.remove_model(name)
        removed = changing(dev.engine.up())
    assert {step.op for step in added} == {"create"}
    of_models = {name: [step for step in added if of_model(step, name.replace("_", "-"))] for name in models}
    assert {step.urn for step in added} == {step.urn for found in of_models.values() for step in found}
    for name, found in of_models.items():
        # What a model has: its code, what trains it, what serves it.
        kinds = {step.type.rpartition(":")[2] for step in found}
        assert {"ConfigMap", "Job", "CronJob", "Deployment", "Service"} <= kinds, name
        assert any(name.replace("_", "-") in pod for pod in set(after) - set(before)), name
    assert {name: after.get(name) for name in before} == before
    assert {step.op for step in removed} == {"delete"}
    assert {step.urn for step in removed} == {step.urn for step in added}
    final = dev.pods()
    assert {name: final.get(name) for name in before} == before


# A preview of everything takes a quarter of a minute, so these ask two things of one, about different models.


def test_another_platform_image_starts_no_training_and_a_model_that_asks_for_gpus_runs_where_they_are(dev: Up):
    """That the scheduler finds a node with GPUs is seen in tests/infra/test_existing.py."""
    dev.engine.config_set("modelport:image", "europe-west4-docker.pkg.dev/a-project/modelport/platform:0.2.0")
    dev.engine.config_set("modelport:models.polyp_seg.serve.gpus", "1", path=True)
    try:
        changes = changing(dev.engine.preview())
    finally:
        dev.engine.run("config", "rm", "--stack", "dev", "modelport:image")
        dev.engine.run("config", "rm", "--stack", "dev", "--path", "modelport:models.polyp_seg.serve")
    assert any("gateway" in step.name for step in changes), "the gateway, at least, runs the new image"
    assert [step.name for step in changes if step.type.endswith(":Job") and "training" in step.name] == []
    pools = {step.name: pod_of(step) for step in changes if step.name.endswith("-pool-deployment")}
    on_gpus = pools.pop("polyp-seg-pool-deployment")
    assert on_gpus["nodeSelector"][POOL] == "gpu"
    triton = next(container for container in on_gpus["containers"] if container["name"] == "triton")
    assert triton["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pools
    assert {pod["nodeSelector"][POOL] for pod in pools.values()} == {"cpu"}


def pod_of(step: Step) -> dict[str, Any]:
    assert step.new_inputs is not None
    return step.new_inputs["spec"]["template"]["spec"]


def test_new_code_submits_a_training_and_a_pin_changes_one_config_map_and_servers_are_left_alone(dev: Up):
    file = dev.project / "models" / "polyp_seg" / "train.py"
    text = file.read_text()
    file.write_text(text + "\n# another line of code\n")
    dev.engine.config_set("modelport:versions.dry_wet", "ab" * 32, path=True)
    try:
        changes = changing(dev.engine.preview())
    finally:
        file.write_text(text)
        dev.engine.run("config", "rm", "--stack", "dev", "--path", "modelport:versions.dry_wet")
    pinned = [step for step in changes if of_model(step, "dry-wet") and step.type.startswith("kubernetes:")]
    assert [(step.type, step.op) for step in pinned] == [("kubernetes:core/v1:ConfigMap", "update")]
    assert "ab" * 32 in json.dumps(pinned[0].new_inputs)
    others = [step for step in changes if not of_model(step, "dry-wet")]
    assert sorted(step.op for step in others if step.type.endswith(":Job")) == ["create", "delete"]
    assert all("training" in step.name for step in others), [step.name for step in others]


def test_drift_is_seen_and_put_right_and_but_for_it_there_is_nothing_to_do(dev: Up):
    path = "/apis/apps/v1/namespaces/modelport-serving/deployments/triton-polyp-seg"
    patch = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 999}}}}
    dev.cluster.request("PATCH", path, patch, content_type="application/strategic-merge-patch+json")
    drifted = [("polyp-seg-pool-deployment", "update")]
    assert [(step.name, step.op) for step in changing(dev.engine.refresh())] == drifted
    assert [(step.name, step.op) for step in changing(dev.engine.up())] == drifted
    assert dev.cluster.get(path)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] < 999


def test_a_broken_model_stops_the_preview_and_changes_nothing(dev: Up):
    dev.add_model("broken")
    try:
        (dev.project / "models" / "broken" / "model.yaml").write_text("name: broken\ntask: segment\nownr: me\n")
        with pytest.raises(EngineFailed) as caught:
            dev.engine.preview()
    finally:
        shutil.rmtree(dev.project / "models" / "broken")
    assert "models/broken/model.yaml" in str(caught.value)
    assert "ownr" in str(caught.value)
    assert "remedy" in str(caught.value)
    assert "Traceback" not in caught.value.log
