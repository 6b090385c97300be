"""A cluster that is there already, as its user's kubeconfig names it: it may have a real enforcer of policies."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.client import Client, ClusterError
from tools import program

VARIABLE = "MODELPORT_TEST_KUBECONFIG"
"""Environment variable with the kubeconfig of the cluster that tests may use."""


class Existing(Client):
    """The cluster of a kubeconfig's current context, while in the context.

    Args:
        kubeconfig: with whatever way to log in kubectl knows.
    """

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__()
        self.kubeconfig = kubeconfig.expanduser().absolute()
        self._proxy: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.state = Path(tempfile.mkdtemp(prefix="modelport-existing-"))
        self._proxy = subprocess.Popen(
            [program("kubectl"), f"--kubeconfig={self.kubeconfig}", "proxy", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._proxy.stdout is not None
        said = self._proxy.stdout.readline()
        port = re.search(r"127\.0\.0\.1:(\d+)", said)
        if port is None:
            self._leave()
            raise ClusterError(f"kubectl proxy with {self.kubeconfig}: {said.strip()}")
        self._connect(f"http://127.0.0.1:{port[1]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._disconnect()
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.communicate()
        shutil.rmtree(self.state, ignore_errors=True)


def existing_kubeconfig() -> Path | None:
    """The kubeconfig that the user names, if there is one."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None
