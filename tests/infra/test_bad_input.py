"""What a user can get wrong: told before anything is made, with the key and the remedy."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.plan import plan
from modelport.errors import BadInput
from tests.engine.engine import EngineFailed
from tests.infra.conftest import PROJECT, Environment, add_model


@dataclass
class Draft:
    """A stack's values and a project's model folders, to be got wrong."""

    values: dict[str, Any]
    root: Path


Change = Callable[[Draft], object]


@pytest.fixture
def drafted(tmp_path: Path) -> Draft:
    shutil.copytree(PROJECT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    values = yaml.safe_load((PROJECT / "stacks" / "Pulumi.dev.yaml").read_text())["config"]
    return Draft({**values, "gcp:project": "a-project", "gcp:region": "europe-west4"}, tmp_path)


def set_path(key: str, value: object) -> Change:
    def change(draft: Draft) -> None:
        first, *path = key.split(".")
        node = draft.values
        for part in (f"modelport:{first}", *path[:-1]) if path else ():
            node = node.setdefault(part, {})
        node[path[-1] if path else f"modelport:{first}"] = value

    return change


def remove(key: str) -> Change:
    return lambda draft: draft.values.pop(key)


def twin(draft: Draft) -> None:
    add_model(draft.root, "twin")
    file = draft.root / "models" / "twin" / "model.yaml"
    file.write_text(file.read_text().replace("name: twin", "name: polyp_seg"))


def disagree(draft: Draft) -> None:
    file = draft.root / "models" / "polyp_seg" / "triton" / "polyp_seg" / "config.pbtxt"
    file.write_text(file.read_text().replace('name: "mask"', 'name: "picture"'))


def hungry(draft: Draft) -> None:
    file = draft.root / "models" / "polyp_seg" / "model.yaml"
    file.write_text(file.read_text().replace("memory: 4Gi", "memory: 400Gi"))


def small(draft: Draft) -> None:
    draft.values["modelport:cluster"] = {"kind": "existing", "nodes": {"all": {"cpus": 4, "memory": "8Gi"}}}
    draft.values["modelport:image"] = "registry.example.org/platform:1"


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no project": (remove("gcp:project"), ("gcp:project", "pulumi config set gcp:project")),
    "a machine that has not this accelerator": (
        set_path("cluster.node_pools.gpu.machine_type", "n2-standard-8"),
        ("modelport:cluster.node_pools.gpu", "n2-standard-8", "g2-standard"),
    ),
    "an unknown machine": (
        set_path("cluster.node_pools.cpu.machine_type", "e9-standard-4"),
        ("modelport:cluster.node_pools.cpu", "e9-standard-4"),
    ),
    "a pool that is too small": (
        set_path("models.polyp_seg.serve.replicas", 90),
        ("cpu has at most 4 node(s)", "90 pods", "polyp_seg"),
    ),
    "a model that fits nowhere": (hungry, ("train worker fits on no node", "memory: 400.0Gi wanted", "allocatable")),
    "an override of an unknown model": (
        set_path("models.polyp.serve.replicas", 2),
        ("modelport:models.polyp", "polyp_seg"),
    ),
    "a pin of an unknown model": (set_path("versions.polyp", "ab" * 32), ("modelport:versions.polyp", "polyp_seg")),
    "a pin that is no digest": (set_path("versions.polyp_seg", "v7"), ("modelport:versions.polyp_seg",)),
    "a zone of another region": (
        set_path("cluster.zone", "us-central1-a"),
        ("modelport:cluster.zone", "us-central1-a", "europe-west4"),
    ),
    "a misspelt key": (set_path("gatewy.replicas", 2), ("modelport:gatewy", "is not a known key", "gateway")),
    "two models with one name": (twin, ("models/twin/model.yaml", "name", "polyp_seg")),
    "a config that disagrees with the task's table": (disagree, ("polyp_seg/config.pbtxt", "mask")),
    "a cluster that the platform alone fills": (small, ("all has at most 1 node(s)", "(platform)")),
    "a shared pool that does not exist": (
        lambda draft: edit(draft, "replicas: 1", "replicas: 1\n  pool: together"),
        ("serve.pool", "together", "modelport:triton_pools"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_with_the_key_and_the_remedy(drafted: Draft, case: str):
    plan(drafted.values, "dev", drafted.root)
    change, said = CASES[case]
    change(drafted)
    with pytest.raises(BadInput) as caught:
        plan(drafted.values, "dev", drafted.root)
    for text in said:
        assert text in str(caught.value)
    assert re.search(r"remedy: \S", str(caught.value))


@pytest.mark.parametrize(
    ("monitoring", "untold"),
    [
        ({}, ["endoscopy-ml", "ml-platform", "radiology-ml", "road-ml"]),
        (
            {"receivers": {"ml-platform": "https://x.org", "roadml": "https://x.org"}},
            ["endoscopy-ml", "radiology-ml", "road-ml"],
        ),
        ({"receivers": {"default": "https://x.org"}}, []),
        ({"enabled": False}, []),
    ],
    ids=["nobody", "one of them", "all others", "no monitoring"],
)
def test_the_preview_says_whose_alerts_reach_nobody(drafted: Draft, monitoring: dict[str, Any], untold: list[str]):
    drafted.values["modelport:monitoring"] = monitoring
    assert plan(drafted.values, "dev", drafted.root).untold == untold


def test_the_engine_stops_before_anything_is_made(draft: Environment):
    draft.engine.run("config", "rm", "--stack", "dev", "gcp:project")
    assert "pulumi config set gcp:project" in refused(draft)


def test_what_a_component_refuses_stops_it_too(draft: Environment):
    draft.engine.config_set("modelport:cluster.system_machine_type", "e9-standard-4", path=True)
    assert "e9-standard-4" in refused(draft)


def test_a_kubeconfig_that_leads_nowhere_stops_it_too(draft: Environment):
    draft.engine.run("config", "rm", "--stack", "dev", "modelport:cluster")
    for key, value in {
        "kind": "existing",
        "kubeconfig": str(draft.project / "nowhere"),
        "nodes.all.cpus": "16",
        "nodes.all.memory": "64Gi",
    }.items():
        draft.engine.config_set(f"modelport:cluster.{key}", value, path=True)
    draft.engine.config_set("modelport:image", "registry.example.org/platform:1")
    said = refused(draft)
    assert "there is no kubeconfig" in said
    assert "nowhere" in said


def refused(made: Environment) -> str:
    """What a preview says that fails without having made anything, and without a traceback."""
    with pytest.raises(EngineFailed) as caught:
        made.engine.preview()
    assert "Traceback" not in caught.value.log
    assert not [step for step in caught.value.changes.steps if step.type != "pulumi:pulumi:Stack"]
    return str(caught.value)


def edit(draft: Draft, old: str, new: str) -> None:
    file = draft.root / "models" / "polyp_seg" / "model.yaml"
    file.write_text(file.read_text().replace(old, new))
