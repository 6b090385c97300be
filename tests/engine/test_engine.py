"""The engine as tests drive it, with the random provider only: no cluster."""

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.engine.conftest import TinyEngine
from tests.engine.engine import Engine, EngineFailed, copy_project, real_plugin, write_project

CREDENTIALS = """
import pulumi
import pulumi_random as random

config = pulumi.Config()
print("a table that goes with the preview")
keepers = {"generation": config.get("generation") or "1"}
password = random.RandomPassword("password", length=20, special=False, keepers=keepers)
name = random.RandomId("name", byte_length=4, prefix="n-")
pulumi.export("password", password.result)
pulumi.export("name", name.hex)
pulumi.export("canary", config.get_secret("canary"))
"""


def test_a_stack_is_made_kept_changed_and_destroyed(tiny: TinyEngine) -> None:
    engine = tiny(CREDENTIALS)
    engine.config_set("canary", "canary-in-the-mine", secret=True)

    made = engine.up()
    assert {step.name for step in made.created} >= {"password", "name"}
    assert "a table that goes with the preview" in made.diagnostics
    first = engine.outputs(show_secrets=True)
    assert len(first["password"]) == 20
    assert first["password"].isalnum()
    assert first["name"].startswith("n-")
    assert engine.outputs()["password"] == "[secret]"
    state = engine.export()
    assert first["password"] not in json.dumps(state)
    assert "canary-in-the-mine" not in json.dumps(state)
    assert "canary-in-the-mine" not in made.log

    again = engine.preview()
    assert again.empty, str(again)
    assert {step.name for step in again.same} >= {"password", "name"}

    engine.config_set("generation", "2")
    rotated = engine.up()
    assert [(step.name, step.changed) for step in rotated.replaced] == [("password", {"keepers.generation"})]
    second = engine.outputs(show_secrets=True)
    assert second["password"] != first["password"]
    assert second["name"] == first["name"]

    engine.import_state(state)
    assert engine.outputs(show_secrets=True)["password"] == first["password"]

    assert {step.name for step in engine.destroy().deleted} >= {"password", "name"}
    assert not engine.export()["deployment"].get("resources")


def test_an_error_of_the_program_is_in_the_diagnostics(tiny: TinyEngine) -> None:
    engine = tiny("import pulumi_random as random\nrandom.RandomPassword('p', length=4, min_lower=5)\n")
    with pytest.raises(EngineFailed) as refused:
        engine.preview()
    assert "length" in str(refused.value.diagnostics)
    assert "minimums" in str(refused.value.diagnostics)

    write_project(engine.project, "raise RuntimeError('the settings are wrong')")
    with pytest.raises(EngineFailed, match="the settings are wrong"):
        engine.preview()


def test_a_command_that_hangs_ends_with_all_its_programs(tiny: TinyEngine, tmp_path: Path) -> None:
    engine = tiny("import pulumi_random as r, time\nr.RandomId('i', byte_length=2)\ntime.sleep(600)\n", timeout=6)
    with pytest.raises(EngineFailed, match="not finished after 6 s"):
        engine.preview()
    deadline = time.monotonic() + 10
    while left := _processes_of(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


PACKAGE = {
    "PulumiPlugin.yaml": "runtime: python\n",
    "__main__.py": """
from pulumi.provider.experimental import component_provider_host
from pair import Pair

component_provider_host(name="pairs", components=[Pair])
""",
    "pair.py": """
from typing import TypedDict

import pulumi
import pulumi_random as random


class PairArgs(TypedDict):
    bytes: pulumi.Input[int]


class Pair(pulumi.ComponentResource):
    left: pulumi.Output[str]

    def __init__(self, name: str, args: PairArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pairs:index:Pair", name, {**args}, opts)
        made = random.RandomId(f"{name}-left", byte_length=args["bytes"], opts=pulumi.ResourceOptions(parent=self))
        self.left = made.hex
        self.register_outputs({"left": self.left})
""",
}


def test_a_component_package_is_used_by_another_project(tiny: TinyEngine, tmp_path: Path) -> None:
    write_project(tmp_path / "package", "", files=PACKAGE)
    (tmp_path / "package" / "Pulumi.yaml").unlink()
    engine = tiny(
        "import sys\n"
        "sys.path.insert(0, 'sdks/pairs')\n"
        "import pulumi, pulumi_pairs\n"
        "pulumi.export('left', pulumi_pairs.Pair('two', bytes=3).left)\n"
    )
    engine.run("package", "add", "../package")
    assert [step.name for step in engine.up().created if step.type.startswith(("pairs:", "random:"))] == [
        "two",
        "two-left",
    ]
    assert len(engine.outputs()["left"]) == 6


POLICY = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import analyzer_pb2 as messages, analyzer_pb2_grpc as services, plugin_pb2


class Analyzer(services.AnalyzerServicer):
    def GetPluginInfo(self, request, context):
        return plugin_pb2.PluginInfo(version="1.0.0")

    def GetAnalyzerInfo(self, request, context):
        policy = messages.PolicyInfo(name="short-ids", enforcementLevel=messages.MANDATORY)
        return messages.AnalyzerInfo(name="pack", version="1.0.0", policies=[policy])

    def ConfigureStack(self, request, context):
        return messages.AnalyzerStackConfigureResponse()

    def Configure(self, request, context):
        return empty_pb2.Empty()

    def Analyze(self, request, context):
        found = []
        if request.type.endswith("RandomId") and request.properties["byteLength"] > 8:
            found.append(
                messages.AnalyzeDiagnostic(
                    policyName="short-ids", policyPackName="pack", policyPackVersion="1.0.0",
                    message="an id this long", enforcementLevel=messages.MANDATORY, urn=request.urn,
                )
            )
        return messages.AnalyzeResponse(diagnostics=found)

    def AnalyzeStack(self, request, context):
        return messages.AnalyzeResponse()


server = grpc.server(ThreadPoolExecutor(4))
services.add_AnalyzerServicer_to_server(Analyzer(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


def test_a_policy_pack_refuses_in_the_preview(tiny: TinyEngine, tmp_path: Path) -> None:
    pack = write_project(tmp_path / "pack", POLICY, files={"PulumiPolicy.yaml": "runtime: python\nversion: 1.0.0\n"})
    (pack / "Pulumi.yaml").unlink()
    engine = tiny("import pulumi_random as random\nrandom.RandomId('long', byte_length=9)\n")
    with pytest.raises(EngineFailed) as refused:
        engine.preview("--policy-pack", str(pack))
    assert any("short-ids" in text and "an id this long" in text for text in refused.value.diagnostics)


COPIED_PROJECT = {
    "Pulumi.yaml": "name: copied\nruntime: python\nmain: infra\nstackConfigDir: stacks\n",
    "infra/__main__.py": "import pulumi\nfrom components.labels import WHERE\npulumi.log.info(WHERE)\n",
    "components/__init__.py": "",
    "components/labels.py": "WHERE = 'components of the copy'\n",
    "stacks/dev/Pulumi.dev.yaml": "config: {}\n",
}


def test_a_copied_project_runs_its_own_code_and_leaves_the_source_alone(tmp_path: Path) -> None:
    source = write_project(tmp_path / "source", "", files=COPIED_PROJECT)
    (source / "stacks" / "Pulumi.dev.yaml").symlink_to("dev/Pulumi.dev.yaml")
    (source / "models").mkdir()

    engine = Engine(copy_project(source, tmp_path / "copy"), tmp_path / "state")
    engine.stack_init("dev")
    engine.config_set("gcp:project", "of-the-copy")

    # `components` is a package of this repository too, which its own environment has on the path.
    assert "components of the copy" in engine.preview().diagnostics
    assert "of-the-copy" in (tmp_path / "copy" / "stacks" / "dev" / "Pulumi.dev.yaml").read_text()
    assert (source / "stacks" / "dev" / "Pulumi.dev.yaml").read_text() == COPIED_PROJECT["stacks/dev/Pulumi.dev.yaml"]


def test_an_engine_refuses_a_checkout(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", "")
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    with pytest.raises(ValueError, match="copy_project"):
        Engine(project, tmp_path / "state")


def test_a_real_plugin_is_taken_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "pulumi-resource-random"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "home"))
    assert real_plugin(name) is None
    monkeypatch.setenv("MODELPORT_REAL_PLUGINS", "1")
    with pytest.raises(FileNotFoundError, match=name):
        real_plugin(name)

    for version in ("v4.9.0", "v4.21.4"):
        plugin = tmp_path / "home" / "plugins" / f"resource-random-{version}" / name
        plugin.parent.mkdir(parents=True)
        plugin.touch(mode=0o755)
    assert real_plugin(name) == plugin
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / name).touch(mode=0o755)
    assert real_plugin(name) == tmp_path / "bin" / name


def _processes_of(folder: Path) -> list[str]:
    """Command lines of processes that were started by an engine with its files in a folder."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("PULUMI_HOME", ""):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
