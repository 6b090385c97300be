"""A control plane whose processes a keeper holds: they end, and its files go, with whoever started it."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.client import Client, ClusterError
from tests.cluster.configuration import (
    admission_configuration,
    kubeconfig,
    write_certificates,
    write_json,
    write_private,
    write_service_account_keys,
)

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
"""What every control plane is made of."""

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder: what Python programs of ours are found in."""

_LOG_LINES = 25
_END_S = 30
_SPENDING = {"GOGC": "400", "GOMEMLIMIT": "2GiB"}
"""Memory for processor time. Charts' kinds are converted over and over: collecting that took two fifths of the API
server's."""


class Kept(Client, ABC):
    """etcd, API server, controllers and scheduler, from `start` or entering the context until `stop` or leaving it.

    All processes end, and its files go, when the process that started it ends, however that happens.

    Admission enforces the restricted Pod Security Standard, in its newest version, in every namespace but kube-system.
    A namespace's own labels still come first, as anywhere: no label, no exception.
    """

    token: str
    """Bearer token of the administrator, in the group ``system:masters``."""

    def __init__(self) -> None:
        super().__init__()
        self._keeper: subprocess.Popen[bytes] | None = None
        self.token = secrets.token_hex(16)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Bring it up.

        Raises:
            ClusterError: a process ended, or something took longer than a minute.
        """

    def stop(self) -> None:
        """End every process and remove every file; does nothing when that has been done."""
        self._disconnect()
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(timeout=_END_S)
            self._keeper = None
            # The keeper does this; but it may have been killed.
            shutil.rmtree(self.state, ignore_errors=True)

    def log(self, process: str, lines: int = _LOG_LINES) -> str:
        """The end of a process's log, such as that of ``kube-apiserver`` or ``ray-operator``."""
        file = self.state / "log" / f"{process}.log"
        if not file.is_file():
            return f"(no {file.name})"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])

    # Processes

    def _refuse_another_start(self) -> None:
        if self._keeper is not None:
            raise ClusterError("it has been started already")

    def _keep(self, state: Path, command: Sequence[str | Path], files: Sequence[int] = ()) -> None:
        """Start the keeper of a new state folder; it inherits open files by their descriptors."""
        self._refuse_another_start()
        self.state = state
        for folder in ("log", "ended", "certs"):
            (state / folder).mkdir()
        self._keeper = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            pass_fds=files,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def _launch(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        files: Sequence[int] = (),
    ) -> None:
        self._order(
            {
                "name": name,
                "command": [str(part) for part in command],
                # Nothing of the user's: no proxies, no kubeconfig, no credentials.
                "environment": {"PATH": path(), "HOME": str(self.state), **_SPENDING, **(environment or {})},
                "files": list(files),
            }
        )

    def _launch_ours(self, module: str, *arguments: str | Path, files: Sequence[int] = ()) -> None:
        """Run a module of this package as a process of its name."""
        command = [sys.executable, "-m", f"tests.cluster.{module}", *arguments]
        self._launch(module, command, {"PYTHONPATH": str(ROOT)}, files)

    def _kill(self, name: str) -> None:
        """End a process; `_launch` may start it again."""
        self._order({"name": name, "command": None})

    def _order(self, order: Mapping[str, object]) -> None:
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(json.dumps(order).encode() + b"\n")
        self._keeper.stdin.flush()

    def _ended(self, process: str) -> str | None:
        ended = self.state / "ended" / process
        return ended.read_text() if ended.is_file() else None

    # The control plane

    def _start_api_server(
        self,
        programs: Mapping[str, Path],
        *,
        bind: str,
        port: int,
        url: str,
        advertised: str,
        services: str,
        more: Sequence[str] = (),
    ) -> None:
        """Start etcd and the API server; `kubeconfig` is written, and `_ready` says when they answer."""
        certs = self.state / "certs"
        sockets = f"unix://{self.state}/etcd.sock"
        self._launch(
            "etcd",
            [
                programs["etcd"],
                "--data-dir=etcd",
                f"--listen-client-urls={sockets}",
                f"--advertise-client-urls={sockets}",
                "--listen-peer-urls=unix://etcd-peer:1",
                "--initial-advertise-peer-urls=unix://etcd-peer:1",
                "--initial-cluster=default=unix://etcd-peer:1",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
        write_private(certs / "tokens.csv", f"{self.token},admin,admin,system:masters\n")
        write_service_account_keys(certs)
        write_certificates(certs, advertised, services)
        write_json(self.state / "admission.json", admission_configuration())
        self._launch(
            "kube-apiserver",
            [
                programs["kube-apiserver"],
                f"--etcd-servers={sockets}",
                f"--bind-address={bind}",
                f"--secure-port={port}",
                f"--advertise-address={advertised}",
                f"--tls-cert-file={certs / 'apiserver.crt'}",
                f"--tls-private-key-file={certs / 'apiserver.key'}",
                f"--token-auth-file={certs / 'tokens.csv'}",
                "--anonymous-auth=false",
                "--authorization-mode=Node,RBAC",
                "--admission-control-config-file=admission.json",
                f"--service-cluster-ip-range={services}",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={certs / 'service-accounts.pub'}",
                f"--service-account-signing-key-file={certs / 'service-accounts.key'}",
                *more,
            ],
        )
        authority = (certs / "ca.crt").read_text()
        self.kubeconfig = self.state / "kubeconfig"
        write_json(self.kubeconfig, kubeconfig(url, self.token, authority.encode()))
        self._connect(url, self.token, authority)

    def _start_controllers(self, programs: Mapping[str, Path], config: Path) -> None:
        """Start controller manager and scheduler, as the administrator that a kubeconfig names."""
        # These need no ports: nobody asks them for metrics.
        asks = [f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"]
        certs = self.state / "certs"
        self._launch(
            "kube-controller-manager",
            [
                programs["kube-controller-manager"],
                *asks,
                f"--service-account-private-key-file={certs / 'service-accounts.key'}",
                f"--root-ca-file={certs / 'ca.crt'}",
            ],
        )
        self._launch("kube-scheduler", [programs["kube-scheduler"], *asks])

    def _accounts_made(self) -> bool:
        return self.find("/api/v1/namespaces/default/serviceaccounts/default") is not None


def path() -> str:
    """Where programs are looked for; some for root only are not on everybody's PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
