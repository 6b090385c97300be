"""Commands of a page of docs/, run as an operator would."""

import os
import re
import subprocess
from pathlib import Path

from tools import program

SECONDS = 420


def commands(text: str, heading: str) -> str:
    """The fenced blocks of a section, one after the other.

    Raises:
        LookupError: there is no such section, or nothing in it to be run.
    """
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL) if section else []
    if not blocks:
        raise LookupError(f"the page has no commands under {heading!r}")
    return "\n".join(blocks)


def run_commands(page: Path, heading: str, kubeconfig: Path, folder: Path) -> str:
    """Run a section's commands in a folder, as the administrator of a cluster; what they print.

    Raises:
        AssertionError: one of them failed.
    """
    programs = [str(program(name).parent) for name in ("kubectl", "mc")]
    done = subprocess.run(
        ["bash", "-c", commands(page.read_text(), heading)],
        cwd=folder,
        env={
            "HOME": str(folder),
            "KUBECONFIG": str(kubeconfig),
            "PATH": os.pathsep.join([*programs, os.environ.get("PATH", os.defpath)]),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{page.name}, {heading}: {done.stdout}"
    return done.stdout
