"""What `modelport new` writes is a model of the environment by being there: nothing else of the program changes."""

import os
import subprocess
import sys

from tests.engine.engine import CHANGING
from tests.infra.conftest import Up


def test_the_preview_shows_the_new_models_resources_only(dev: Up):
    models = {"snow_depth": "classify", "rust_map": "segment", "bird_count": "detect"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
    try:
        for name, task in models.items():
            command = [sys.executable, "-m", "modelport", "new", name, "--task", task, "--owner", "tests"]
            made = subprocess.run(command, cwd=dev.project, env=environment, capture_output=True, text=True, timeout=60)
            assert made.returncode == 0, made.stderr
        changes = dev.engine.preview()
    finally:
        for name in models:
            if (dev.project / "models" / name).exists():
                dev.remove_model(name)
    steps = [step for step in changes.steps if step.op in CHANGING]
    assert {step.op for step in steps} == {"create"}
    of_models = {
        name: [step for step in steps if step.name.startswith(f"{name.replace('_', '-')}-")] for name in models
    }
    assert {step.urn for step in steps} == {step.urn for found in of_models.values() for step in found}
    for name, found in of_models.items():
        # What a model has: its code, what trains it, what serves it.
        kinds = {step.type.rpartition(":")[2] for step in found}
        assert {"ConfigMap", "Job", "CronJob", "Deployment", "Service"} <= kinds, name
    assert dev.engine.preview().empty
