"""Running the real Pulumi engine in tests: a state of its own, no network, stand-ins for plugins that are not there.

    project = copy_project(PROJECT, tmp_path / "project")
    engine = Engine(project, tmp_path / "state", kubeconfig=control_plane.kubeconfig)
    engine.stack_init("dev")
    engine.config_set("gcp:project", "some-project")
    assert engine.up().created
    assert engine.preview().empty

Plugins run as programs on the engine's PATH. A real provider plugin of Kubernetes or random that is installed is taken
instead of the stand-in; ``MODELPORT_REAL_PLUGINS=1`` insists on them.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tools import crds, program

PLUGINS = Path(__file__).resolve().parent / "plugins"

STAND_INS: Mapping[str, str] = {
    "pulumi-resource-gcp": "gcp_plugin.py",
    "pulumi-resource-kubernetes": "kubernetes_plugin.py",
    "pulumi-resource-random": "random_plugin.py",
}
"""Modules of `PLUGINS` by the name of the program that they stand for."""

REAL_WHERE_INSTALLED = ("pulumi-resource-kubernetes", "pulumi-resource-random")

CHART_TOOLS: Mapping[str, str] = {
    "cert-manager": "cert-manager",
    "keda": "keda",
    "kube-prometheus-stack": "prometheus-operator",
    "kuberay-operator": "ray-operator",
}
"""Where the definitions that a chart brings come from, by the chart's name."""

CHART_KINDS: Mapping[str, frozenset[str]] = {
    "cert-manager": frozenset({"certificates"}),
    "keda": frozenset({"scaledobjects"}),
    "kube-prometheus-stack": frozenset({"podmonitors", "prometheusrules"}),
    "kuberay-operator": frozenset({"rayjobs"}),
}
"""What the platform makes objects of, of the kinds that a chart brings: the other twenty, megabytes of schemas, took an
API server 15 s."""

COPIED = ("Pulumi.yaml", "infra", "components", "models", "stacks", "policy")
LINKED = (".venv", "modelport")

PASSPHRASE = "guards nothing: states of tests"
"""Encrypts the secrets in states of tests, recorded ones too."""

CHANGING = frozenset({"create", "update", "delete", "replace", "import", "create-replacement", "delete-replaced"})
"""Operations that change something."""


@dataclass(frozen=True)
class Step:
    """What the engine did, or would do, to one resource."""

    op: str
    """Pulumi's name: same, create, update, replace, create-replacement, delete-replaced, delete, read, ..."""
    urn: str
    type: str
    name: str
    changed: frozenset[str]
    """Paths of the properties that differ, such as ``spec.replicas``."""
    old_inputs: Mapping[str, Any] | None
    """Inputs in the state before; secrets are shown as ``[secret]``."""
    new_inputs: Mapping[str, Any] | None
    outputs: Mapping[str, Any] | None
    """Outputs afterwards, as far as the engine tells."""


@dataclass(frozen=True)
class Changes:
    """What a preview, an update, a refresh or a destruction did."""

    steps: tuple[Step, ...]
    """In the order in which they began; without those that failed."""
    failed: tuple[str, ...]
    """URNs of resources whose operation failed."""
    diagnostics: tuple[str, ...]
    """Everything that program, plugins and engine had to say, a text each."""
    log: str
    """What a person would have seen."""

    @property
    def created(self) -> tuple[Step, ...]:
        """Resources that are new; not those that replace another."""
        return self.of("create", "import")

    @property
    def updated(self) -> tuple[Step, ...]:
        """Resources that stay and are changed. After a refresh: those that somebody else had changed."""
        return self.of("update")

    @property
    def replaced(self) -> tuple[Step, ...]:
        """Resources that a new one stands in for."""
        return self.of("replace")

    @property
    def deleted(self) -> tuple[Step, ...]:
        """Resources that go without a replacement. After a refresh: those that somebody else had deleted."""
        return self.of("delete")

    @property
    def same(self) -> tuple[Step, ...]:
        """Resources that stay as they are."""
        return self.of("same")

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return not any(step.op in CHANGING for step in self.steps)

    def of(self, *ops: str) -> tuple[Step, ...]:
        """Steps with any of these operations."""
        return tuple(step for step in self.steps if step.op in ops)

    def __str__(self) -> str:
        return "\n".join(
            f"{step.op} {step.type} {step.name} {' '.join(sorted(step.changed))}".rstrip()
            for step in self.steps
            if step.op in CHANGING
        )


class EngineFailed(Exception):
    """The engine, the program or a plugin reports an error.

    Args:
        command: what was run.
        diagnostics: the errors' texts.
        changes: what was done, or would be, before that.
        log: what a person would have seen.
    """

    def __init__(self, command: str, diagnostics: list[str], changes: Changes, log: str) -> None:
        super().__init__(f"pulumi {command} failed\n" + "\n".join(diagnostics or [log[-4000:]]))
        self.diagnostics = diagnostics
        self.changes = changes
        self.log = log


class Engine:
    """A project with one stack at a time on the real Pulumi command line.

    Args:
        project: folder with ``Pulumi.yaml``; a copy, because configuration is written beside it.
        state: folder for everything else: backend, Pulumi's home, programs, logs.
        kubeconfig: cluster of the tests; what a program without one of its own gets, and what stands for clusters whose
            kubeconfig logs in by a program.
        env: more environment for the engine and all that it starts.
        timeout: seconds that a command may take.

    Raises:
        ValueError: the project is a git checkout.
    """

    def __init__(
        self,
        project: Path,
        state: Path,
        *,
        kubeconfig: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> None:
        if (project / ".git").exists():
            raise ValueError(f"{project} is a checkout: the engine writes configuration there; use copy_project")
        self.project = project
        self.state = state
        self.stack = ""
        self.timeout = timeout
        for folder in ("home", "backend", "bin", "logs", "user"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        install_plugins(state / "bin")
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PULUMI_", "KUBE", "GOOGLE_"))},
            "HOME": str(state / "user"),
            "PATH": f"{state / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            # An installation for development has the checkout on its path: the copy's packages come before it.
            "PYTHONPATH": str(project.resolve()),
            "PULUMI_HOME": str(state / "home"),
            "PULUMI_BACKEND_URL": f"file://{state / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "1",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "1",
            "PULUMI_DEBUG_COMMANDS": "1",  # for --event-log
            # Writing a state of hundreds of resources after each of them is most of what the engine does in an `up`.
            "PULUMI_EXPERIMENTAL": "1",
            "PULUMI_SKIP_CHECKPOINTS": "1",
            # Go's collector of garbage: a command lives for seconds.
            "GOGC": "400",
            **({"KUBECONFIG": str(kubeconfig), "MODELPORT_TEST_CLUSTER": str(kubeconfig)} if kubeconfig else {}),
            **(env or {}),
        }

    def stack_init(self, name: str) -> None:
        """Make a stack, and use it from now on."""
        self._run("stack", "init", "--no-select", "--stack", name)
        self.stack = name

    def config_set(self, key: str, value: str, *, secret: bool = False, path: bool = False) -> None:
        """Set a configuration value of the stack.

        Args:
            key: with its namespace, if it is not the project's.
            value: the value.
            secret: whether to encrypt it.
            path: whether the key is a path such as ``models.polyp_seg.replicas``.
        """
        options = ["--secret"] if secret else ["--plaintext"]
        self._run("config", "set", "--stack", self.stack, *options, *(["--path"] if path else []), "--", key, value)

    def preview(self, *options: str) -> Changes:
        """What an update would do."""
        return self._operate("preview", *options)

    def up(self, *options: str) -> Changes:
        """Update, without a preview before it."""
        return self._operate("up", "--yes", "--skip-preview", *options)

    def refresh(self, *options: str) -> Changes:
        """Take over into the state what is there."""
        return self._operate("refresh", "--yes", "--skip-preview", *options)

    def destroy(self, *options: str) -> Changes:
        """Delete everything in the stack."""
        return self._operate("destroy", "--yes", "--skip-preview", *options)

    def export(self, *, show_secrets: bool = False) -> dict[str, Any]:
        """The stack's state; secrets are encrypted unless they shall be shown."""
        options = ["--show-secrets"] if show_secrets else []
        return json.loads(self._run("stack", "export", "--stack", self.stack, *options))

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Replace the stack's state."""
        file = self.state / "import.json"
        file.write_text(json.dumps(state))
        self._run("stack", "import", "--stack", self.stack, "--file", str(file))

    def outputs(self, *, show_secrets: bool = False) -> dict[str, Any]:
        """The stack's outputs; secrets as ``[secret]`` unless they shall be shown."""
        options = ["--show-secrets"] if show_secrets else []
        return json.loads(self._run("stack", "output", "--json", "--stack", self.stack, *options))

    def run(self, *arguments: str) -> str:
        """Any other command of Pulumi's in the project; its standard output."""
        return self._run(*arguments)

    @cached_property
    def _program(self) -> str:
        return str(program("pulumi"))

    def _operate(self, command: str, *options: str) -> Changes:
        events = self.state / "logs" / f"{command}-{uuid.uuid4().hex[:8]}.jsonl"
        status, log = self._execute(command, "--stack", self.stack, "--event-log", str(events), *options)
        changes, errors = read_events(events, log)
        if status:
            raise EngineFailed(command, errors, changes, log)
        return changes

    def _run(self, *arguments: str) -> str:
        status, output = self._execute(*arguments)
        if status:
            raise EngineFailed(" ".join(arguments[:2]), [output.strip()], Changes((), (), (), output), output)
        return output

    def _execute(self, *arguments: str) -> tuple[int, str]:
        command = [self._program, "--non-interactive", "--color=never", *arguments]
        errors = self.state / "logs" / f"stderr-{uuid.uuid4().hex[:8]}.log"
        with errors.open("w") as stream:
            process = subprocess.Popen(
                command,
                cwd=self.project,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=self.timeout)
            except subprocess.TimeoutExpired as error:
                # Plugins end by themselves when their engine is gone.
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
                said = f"{output}\n{errors.read_text()}"
                message = f"not finished after {self.timeout:.0f} s"
                raise EngineFailed(arguments[0], [message], Changes((), (), (), said), said) from error
        said = errors.read_text()
        return process.returncode, output if not process.returncode and not said else f"{output}{said}"


def write_project(folder: Path, text: str, *, name: str = "tiny", files: Mapping[str, str] | None = None) -> Path:
    """A project of one Python program.

    Args:
        folder: where; may exist.
        text: content of ``__main__.py``.
        name: the project's name.
        files: more files, by path.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in {
        "Pulumi.yaml": f"name: {name}\nruntime: python\n",
        "__main__.py": text,
        **(files or {}),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder


def copy_project(source: Path, target: Path, *, copied: Iterable[str] = COPIED, linked: Iterable[str] = LINKED) -> Path:
    """A copy of a project that tests may change: what decides resources is copied, the rest linked.

    Links inside the copied folders stay links. What the source does not have is left out.

    Returns:
        The target.
    """
    target.mkdir(parents=True)
    for name in copied:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)
    for name in linked:
        if (source / name).exists():
            (target / name).symlink_to((source / name).resolve())
    return target


def chart_definitions(folder: Path, *, running: Collection[str] = ()) -> Path:
    """Fill a folder with the kinds that each chart brings, for the variable ``MODELPORT_TEST_CRDS``.

    Args:
        folder: to fill; may exist.
        running: charts whose operator will run: it watches all of its kinds, so they are all there. Of every other
            chart there are those of `CHART_KINDS`.

    Returns:
        The folder.
    """
    for chart, tool in CHART_TOOLS.items():
        (folder / chart).mkdir(parents=True)
        for file in crds(tool).glob("*.yaml"):
            # Files are named GROUP_PLURAL.yaml, as controller-gen does.
            if chart in running or file.stem.partition("_")[2] in CHART_KINDS[chart]:
                (folder / chart / file.name).symlink_to(file)
    return folder


def install_plugins(folder: Path) -> None:
    """Put the language host and every provider plugin into a folder, as programs: stand-ins, or links to real ones."""
    if not program("pulumi").with_name("pulumi-language-python").exists():
        language = [PLUGINS / "language_python.py", "--exec", program("pulumi-language-python-exec")]
        _write_launcher(folder / "pulumi-language-python", [*language, "--sdk-generator", program("gensdk")])
    for name, module in STAND_INS.items():
        real = real_plugin(name) if name in REAL_WHERE_INSTALLED else None
        if real is not None:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(real)
        elif (PLUGINS / module).exists():
            _write_launcher(folder / name, [PLUGINS / module])


def real_plugin(name: str) -> Path | None:
    """The real plugin of a name on PATH or among Pulumi's own, the newest there, or None where tests use a stand-in.

    Raises:
        FileNotFoundError: ``MODELPORT_REAL_PLUGINS=1`` insists, and it is not installed.
    """
    kind = name.removeprefix("pulumi-")
    home = Path(os.environ.get("PULUMI_HOME", Path.home() / ".pulumi"))
    found = shutil.which(name)
    installed = sorted(home.glob(f"plugins/{kind}-v*/{name}"), key=lambda path: _version(path.parent.name))
    if found is None and not installed:
        if os.environ.get("MODELPORT_REAL_PLUGINS") == "1":
            raise FileNotFoundError(f"MODELPORT_REAL_PLUGINS=1, but {name} is neither on PATH nor in {home}/plugins")
        return None
    return Path(found) if found else installed[-1]


def read_events(file: Path, log: str) -> tuple[Changes, list[str]]:
    """What an event log of the engine tells: the changes, and the texts of errors."""
    begun: dict[tuple[str, str], dict[str, Any]] = {}
    failed: list[str] = []
    diagnostics: list[str] = []
    errors: list[str] = []
    lines = file.read_text().splitlines() if file.exists() else []
    for event in map(json.loads, lines):
        if "resourcePreEvent" in event:
            metadata = event["resourcePreEvent"]["metadata"]
            begun[metadata["urn"], metadata["op"]] = metadata
        elif "resOutputsEvent" in event:
            metadata = event["resOutputsEvent"]["metadata"]
            if (metadata["urn"], metadata["op"]) in begun:
                begun[metadata["urn"], metadata["op"]] = metadata
            elif (metadata["urn"], "refresh") in begun:
                begun[metadata["urn"], "refresh"] = metadata
        elif "resOpFailedEvent" in event:
            metadata = event["resOpFailedEvent"]["metadata"]
            begun.pop((metadata["urn"], metadata["op"]), None)
            failed.append(metadata["urn"])
        elif "diagnosticEvent" in event and event["diagnosticEvent"]["severity"] != "debug":
            text = _text(event["diagnosticEvent"])
            if not text.startswith("using pulumi-"):  # every plugin is found on PATH here, and the engine warns of it
                diagnostics.append(text)
            if event["diagnosticEvent"]["severity"] == "error":
                errors.append(text)
        elif "policyEvent" in event:
            text = f"{event['policyEvent']['policyName']}: {_text(event['policyEvent'])}"
            diagnostics.append(text)
            if event["policyEvent"]["enforcementLevel"] == "mandatory":
                errors.append(text)
    steps = tuple(_step(metadata) for metadata in begun.values())
    return Changes(steps, tuple(failed), tuple(diagnostics), log), errors


def _step(metadata: Mapping[str, Any]) -> Step:
    old, new = metadata.get("old") or {}, metadata.get("new") or {}
    changed = metadata.get("detailedDiff") or dict.fromkeys(metadata.get("diffs") or [])
    return Step(
        op=metadata["op"],
        urn=metadata["urn"],
        type=metadata["type"],
        name=metadata["urn"].split("::")[-1],
        changed=frozenset(changed),
        old_inputs=old.get("inputs"),
        new_inputs=new.get("inputs"),
        outputs=new.get("outputs"),
    )


def _text(event: Mapping[str, Any]) -> str:
    return re.sub(r"<\{%[^%]*%\}>", "", event["message"]).strip()


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name.rpartition("-v")[2]))


def _write_launcher(path: Path, command: Sequence[object]) -> None:
    words = " ".join(shlex.quote(str(word)) for word in (sys.executable, *command))
    path.unlink(missing_ok=True)
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
