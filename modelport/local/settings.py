"""What a local platform remembers between starts: ports and secrets, in one private file."""

import secrets
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelport.connection import S3Key
from modelport.errors import BadInput
from modelport.local import ports, s3
from modelport.local.files import write_private

PORTS = (
    "s3",
    "mlflow",
    "triton-http",
    "triton-grpc",
    "triton-metrics",
    "agent",
    "gateway",
    *(f"s3-{name}" for name in s3.INTERNAL_PORTS),
)
"""Every port of the platform, by the name that ``--port NAME=N`` takes."""


class Secrets(BaseModel):
    """Generated once per platform; never on a terminal or in a log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    s3_keys: dict[s3.Identity, S3Key] = Field(default_factory=s3.new_keys)
    s3_signing_key: str = Field(default_factory=lambda: secrets.token_hex(24), repr=False)
    mlflow_password: str = Field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    mlflow_session_key: str = Field(default_factory=lambda: secrets.token_hex(32), repr=False)
    triton_admin_key: str = Field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    gateway_api_key: str = Field(default_factory=lambda: f"mp_{secrets.token_urlsafe(24)}", repr=False)


class Settings(BaseModel):
    """Content of platform.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ports: dict[str, int] = Field(default_factory=dict)
    secrets: Secrets = Field(default_factory=Secrets)

    @classmethod
    def load(cls, path: Path) -> "Settings | None":
        """Read the file; None when there is none.

        Raises:
            BadInput: it is not a platform's settings.
        """
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise BadInput(
                f"is damaged: {error.errors(include_url=False, include_input=False)[0]['msg']}",
                file=path,
                remedy="`modelport local down --delete` removes this platform and its data; then start it anew",
            ) from None

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner only."""
        write_private(path, self.model_dump_json(indent=2))


def check_wishes(wished: Mapping[str, int]) -> None:
    """Refuse ports that cannot be.

    Raises:
        BadInput: an unknown name, a number that is no port, or one number twice.
    """
    for name, port in wished.items():
        if name not in PORTS:
            raise BadInput(f"there is no port named {name!r}", key="--port", remedy=f"one of: {', '.join(PORTS)}")
        if not 1 <= port <= 65535:
            raise BadInput(f"{port} is no port", key=f"--port {name}={port}", remedy="choose one from 1024 to 65535")
        same = [other for other in wished if wished[other] == port]
        if len(same) > 1:
            raise BadInput(f"{' and '.join(same)} cannot share port {port}", key="--port")


def choose_ports(wished: Mapping[str, int], remembered: Mapping[str, int]) -> dict[str, int]:
    """A port for every name: the wished one, else the last one if it is still free, else any free one.

    Raises:
        BadInput: a wished port is in use.
    """
    check_wishes(wished)
    chosen: dict[str, int] = {}
    for name, port in wished.items():
        if not ports.is_free(port):
            raise BadInput(
                f"port {port}, wished for {name}, is in use by another program",
                key=f"--port {name}={port}",
                remedy=f"free it (`ss -ltnp 'sport = :{port}'` names its owner), or give {name} another port",
            )
        chosen[name] = port
    for name in PORTS:
        port = remembered.get(name)
        if name not in chosen and port is not None and port not in chosen.values() and ports.is_free(port):
            chosen[name] = port
    missing = [name for name in PORTS if name not in chosen]
    fresh = ports.free_ports(len(missing), avoid=chosen.values())
    return chosen | dict(zip(missing, fresh, strict=True))
