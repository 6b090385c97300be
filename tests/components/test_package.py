"""The component package: what it offers, and that it does so from wherever Pulumi puts it."""

import importlib
import inspect
import json
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pulumi
import pytest
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

import components
from components.package import COMPONENTS, NAME, VERSION, schema

FOLDER = Path(components.__file__).parent
GOLDEN = FOLDER / "schema.json"
ANY_MESSAGE = [("grpc.max_receive_message_length", -1)]


@pytest.fixture(scope="module")
def offered() -> dict[str, Any]:
    return schema()


def test_the_kept_schema_is_the_packages(offered: dict[str, Any]):
    kept = json.loads(GOLDEN.read_text())
    assert kept == offered, "components/schema.json is not what the components say: run `make schema`, read the change"


def test_every_component_is_offered():
    own = set()
    for module in pkgutil.iter_modules([str(FOLDER)], "components."):
        if module.name == "components.__main__":
            continue
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(found, pulumi.ComponentResource) and found.__module__.startswith("components."):
                own.add(found)
    assert own == set(COMPONENTS)


def test_a_component_registers_under_the_type_that_its_schema_says(offered: dict[str, Any]):
    written = {component: inspect.getsource(component) for component in COMPONENTS}
    assert [
        component.__name__
        for component, text in written.items()
        if f'super().__init__("{NAME}:index:{component.__name__}"' not in text
    ] == []
    assert set(offered["resources"]) == {f"{NAME}:index:{component.__name__}" for component in COMPONENTS}


def test_an_output_of_an_inputs_name_has_its_type(offered: dict[str, Any]):
    # Pulumi takes them for one property; with two types, `up` fails in languages that hold both in one class.
    assert [
        f"{token.rpartition(':')[2]}.{name}"
        for token, resource in offered["resources"].items()
        for name, output in resource["properties"].items()
        if name in resource["inputProperties"] and _shape(resource["inputProperties"][name]) != _shape(output)
    ] == []


def test_everything_is_described(offered: dict[str, Any]):
    assert list(_undescribed(offered)) == []


def test_the_package_answers_from_a_folder_of_another_name(tmp_path: Path, offered: dict[str, Any]):
    elsewhere = tmp_path / "resource-modelport-v0.1.0"
    shutil.copytree(FOLDER, elsewhere, ignore=shutil.ignore_patterns("__pycache__"))
    # A word of the copy's own: the schema must come from it, not from a package that the environment has.
    source = elsewhere / "namespace.py"
    source.write_text(
        source.read_text().replace("A namespace under the restricted", "Of the copy: under the restricted")
    )
    process = subprocess.Popen(
        [sys.executable, elsewhere, "127.0.0.1:1"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().decode().strip()
        assert port.isdigit(), process.communicate(timeout=30)[1].decode()
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=ANY_MESSAGE) as channel:
            provider = provider_pb2_grpc.ResourceProviderStub(channel)
            request = provider_pb2.GetSchemaRequest(version=0)
            answer = json.loads(provider.GetSchema(request, timeout=60).schema)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert (answer["name"], answer["version"]) == (NAME, VERSION)
    assert set(answer["resources"]) == set(offered["resources"])
    told = answer["resources"][f"{NAME}:index:SecureNamespace"]["description"]
    assert told.startswith("Of the copy")


def _shape(property_schema: Any) -> Any:
    """A property's type, without what is said about it; an output is never plain."""
    if isinstance(property_schema, dict):
        return {key: _shape(value) for key, value in property_schema.items() if key not in {"description", "plain"}}
    return property_schema


def _undescribed(offered: dict[str, Any]) -> Iterator[str]:
    """What a reader of a generated SDK would find without a word."""
    named = {**offered["resources"], **offered["types"]}
    for token, found in named.items():
        name = token.rpartition(":")[2]
        if not found.get("description"):
            yield name
        for group in ("inputProperties", "properties"):
            for key, value in found.get(group, {}).items():
                if not value.get("description"):
                    yield f"{name}.{key}"


def test_the_package_runs_with_the_versions_that_the_project_is_tested_with():
    locked = (FOLDER.parent / "locks" / "infra.txt").read_text()
    wanted = [line for line in (FOLDER / "requirements.txt").read_text().splitlines() if "==" in line]
    assert len(wanted) == 4
    for line in wanted:
        assert f"{line} " in locked, line
