"""Tools of others, run offline over manifests: checkov, network-config-analyzer, a PromQL parser."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.policy.environments import checks_environment


@dataclass(frozen=True)
class Failure:
    """A check of checkov's that a manifest fails."""

    check: str
    name: str
    resource: str
    """Kind.namespace.name."""

    def __str__(self) -> str:
        return f"{self.check} {self.resource}: {self.name}"


class Connection(NamedTuple):
    """TCP or UDP connections that policies allow, from one pod (``namespace/name``) or address range to another."""

    source: str
    target: str
    protocol: str
    first: int
    last: int
    """First and last port; 1 and 65535 when every port is allowed."""


def run_checkov(manifests: Sequence[Mapping[str, Any]], skips: Mapping[str, str]) -> list[Failure]:
    """Checks that fail.

    Args:
        manifests: Kubernetes objects.
        skips: Checks that do not hold here by intent, each with the reason. One that nothing would fail is a failure
            itself, so that the list does not outlive its reasons.
    """
    unexplained = [check for check, reason in skips.items() if len(reason) < 10]
    assert not unexplained, f"say why: {unexplained}"
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "manifests.yaml", manifests)
        command = ["--framework", "kubernetes", "-d", folder, "-o", "json", "--quiet", "--compact", "--skip-download"]
        output = _run("checkov", command, Path(folder), codes=(0, 1))
    report = json.loads(output)
    assert "results" in report, f"checkov saw no manifest: {output[:500]}"
    assert report["summary"]["parsing_errors"] == 0, report["results"].get("parsing_errors")
    failed = [
        Failure(check["check_id"], check["check_name"], check["resource"])
        for check in report["results"]["failed_checks"]
    ]
    needed = {failure.check for failure in failed}
    stale = [Failure(check, "is skipped, but nothing fails it", "-") for check in skips if check not in needed]
    return [failure for failure in failed if failure.check not in skips] + stale


def network_matrix(
    policies: Sequence[Mapping[str, Any]],
    namespaces: Sequence[Mapping[str, Any]],
    pods: Sequence[Mapping[str, Any]],
) -> set[Connection]:
    """What network policies evaluate to, as network-config-analyzer sees it.

    Args:
        policies: NetworkPolicy manifests.
        namespaces: Namespace manifests, with the label ``kubernetes.io/metadata.name``.
        pods: Pod manifests; one for each kind of pod is enough.

    Returns:
        Every connection between different pods, and between pods and addresses outside. Neighbouring ports are merged.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {"policies": policies, "namespaces": namespaces, "pods": pods}
        for name, manifests in files.items():
            _write(Path(folder) / f"{name}.yaml", manifests)
        command = ["--connectivity", "policies.yaml", "-n", "namespaces.yaml", "-p", "pods.yaml"]
        command += ["--output_endpoints", "pods", "-o", "txt_no_fw_rules", "-f", "matrix.txt"]
        said = _run("nca", command, Path(folder), codes=(0,))
        matrix = Path(folder) / "matrix.txt"
        assert matrix.exists(), said
        return parse_matrix(matrix.read_text())


def parse_matrix(text: str) -> set[Connection]:
    """Connections of the analyzer's lines.

    Raises:
        ValueError: a line has a form that is not known here; nothing is passed over.
    """
    found: set[Connection] = set()
    for line in filter(None, map(str.strip, text.splitlines())):
        ends, arrow, allowed = line.partition(" : ")
        source, pointer, target = ends.partition(" => ")
        if not arrow or not pointer:
            if re.match(r"(?:.*cluster has|, config|Total run time|[\w/. -]*$)", line):
                continue
            raise ValueError(f"not understood: {line!r}")
        if allowed == "All connections":
            found |= {Connection(source, target, protocol, 1, 65535) for protocol in ("TCP", "UDP")}
            continue
        match = re.fullmatch(r"\{protocols:([A-Z, ]+)(?:,dst_ports:([\d,-]+))?\}", allowed)
        if not match:
            raise ValueError(f"not understood: {line!r}")
        for protocol in match[1].replace(" ", "").split(","):
            for ports in (match[2] or "1-65535").split(","):
                first, _, last = ports.partition("-")
                found.add(Connection(source, target, protocol, int(first), int(last or first)))
    return found


def promql_errors(expressions: Sequence[str]) -> list[str]:
    """What is wrong with PromQL expressions, by Prometheus' own grammar."""
    program = (
        "import json, sys, promql_parser\n"
        "for expression in json.load(sys.stdin):\n"
        "    try: promql_parser.parse(expression)\n"
        "    except ValueError as error: print(json.dumps(f'{expression}: {error}'))\n"
    )
    done = subprocess.run(
        [checks_environment() / "bin" / "python", "-c", program],
        input=json.dumps(list(expressions)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _run(tool: str, arguments: Sequence[str], folder: Path, codes: tuple[int, ...]) -> str:
    # Its own home, so that it neither reads nor leaves anything in the user's.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [checks_environment() / "bin" / tool, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in codes, f"{tool} ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-2000:]}"
    return done.stdout


def _write(path: Path, manifests: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(yaml.safe_dump_all([json.loads(json.dumps(manifest)) for manifest in manifests], sort_keys=False))
