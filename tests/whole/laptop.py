"""Somebody's laptop: the commands of this checkout, with a kubeconfig and a state folder of his own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.whole.stack import STACK
from tools import program

SECONDS = 900.0


class CommandFailed(Exception):
    """A command ended with another exit code than it should; the message holds what it said."""


@dataclass(frozen=True)
class Said:
    """What a command said."""

    out: str
    errors: str
    code: int

    @property
    def json(self) -> Any:
        """Standard output, read as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Laptop:
    """A person, and the project's folder that he works in."""

    project: Path
    folder: Path
    """All that he has but the project: kubeconfig, state folder, home, temporary files."""

    @property
    def kubeconfig(self) -> Path:
        """How he reaches the cluster."""
        return self.folder / "kubeconfig"

    def connected(self, *arguments: str, code: int | None = 0, seconds: float = SECONDS) -> Said:
        """Run ``modelport ARGUMENTS`` connected to the stack, for as long as it takes.

        Raises:
            CommandFailed: it ended with another code than `code`; None takes any.
        """
        command = ["connect", STACK, "--kubeconfig", str(self.kubeconfig), "--", "modelport", *arguments]
        return self.run(*command, code=code, seconds=seconds)

    def program(self, *arguments: str, code: int | None = 0) -> Said:
        """Run ``modelport connect here ARGUMENTS``: options, and a program that is no command of ours."""
        return self.run("connect", STACK, "--kubeconfig", str(self.kubeconfig), *arguments, code=code)

    def run(
        self, *arguments: str, code: int | None = 0, seconds: float = SECONDS, more: Mapping[str, str] | None = None
    ) -> Said:
        """Run ``modelport ARGUMENTS``, with more environment."""
        done = subprocess.run(
            [sys.executable, "-m", "modelport", *arguments],
            cwd=self.project,
            env={**self.environment(), **(more or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if code is not None and done.returncode != code:
            raise CommandFailed(
                f"modelport {' '.join(arguments)} ended with {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
            )
        return Said(done.stdout, done.stderr, done.returncode)

    def environment(self) -> Mapping[str, str]:
        """Nothing of the tests' own connection, a home of his own, and kubectl on PATH."""
        for name in ("home", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("MODELPORT_", "KUBE", "PULUMI_"))
        }
        return {
            **inherited,
            "PATH": f"{program('kubectl').parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "MODELPORT_STATE": str(self.folder / "state"),
            "MODELPORT_PROJECT": str(self.project),
        }
