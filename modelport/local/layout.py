"""Where the local platform keeps what: one folder, and nothing outside it."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from modelport.project import state_folder

# What a UNIX socket's address can hold on Linux (108 with its end mark), less the ".<pid>" that supervisor
# appends while it binds.
_SOCKET_LIMIT = 107 - len(".4194304")


@dataclass(frozen=True)
class Layout:
    """Paths of one platform."""

    state: Path
    """Its folder, absolute."""

    @classmethod
    def of(cls, root: Path, state: Path | None = None) -> "Layout":
        """The layout in `state`, or in the project's own state folder."""
        return cls((state or state_folder(root)).resolve())

    @property
    def state_id(self) -> str:
        """Marks this platform's processes.

        It comes from the path and not from a file, so that they are found even when the folder was deleted under them.
        """
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:16]

    @property
    def lock(self) -> Path:
        """Held by whoever starts or stops the platform."""
        return self.state / "platform.lock"

    @property
    def settings(self) -> Path:
        """Ports and secrets that outlive a restart."""
        return self.state / "platform.json"

    @property
    def connection(self) -> Path:
        """What commands read; there while the platform is up."""
        return self.state / "connection.json"

    def connection_of(self, service: str) -> Path:
        """A service's own connection file."""
        return self.state / "connections" / f"{service}.json"

    @property
    def gateway_keys(self) -> Path:
        """Hashed API keys of the gateway's callers."""
        return self.state / "gateway-keys.json"

    @property
    def supervisor(self) -> Path:
        """Supervisor's configuration, log and pid file."""
        return self.state / "supervisor"

    @property
    def services(self) -> Path:
        """The services' commands and environments, which hold secrets."""
        return self.supervisor / "services.json"

    @property
    def socket(self) -> Path:
        """Supervisor's socket: in the state folder if its path is short enough, else in a private temporary folder."""
        inside = self.supervisor / "supervisor.sock"
        if len(str(inside).encode()) <= _SOCKET_LIMIT:
            return inside
        return Path(tempfile.gettempdir()) / f"modelport-{self.state_id}" / "supervisor.sock"

    @property
    def logs(self) -> Path:
        """One log per service."""
        return self.state / "logs"

    def log_of(self, service: str) -> Path:
        """A service's log."""
        return self.logs / f"{service}.log"

    @property
    def triton(self) -> Path:
        """Triton's model repository and backends."""
        return self.state / "triton"

    def data_of(self, service: str) -> Path:
        """Where a service keeps its data and runs."""
        return self.state / service
