"""How this process reaches a platform. Code does not know at which size it runs: it sees S3, a tracking URI, a Triton.

A connection is one JSON file, readable by its owner only: `modelport local up` writes it on a laptop, a mounted Secret
holds it in a cluster, where each workload's file carries only the identity that it needs.
"""

import os
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelport.errors import BadInput, Refused, Unavailable
from modelport.project import state_folder


class Role(StrEnum):
    """Identities on the object store. Their rights are apart, so that who trains cannot get anything served."""

    TRAINER = "trainer"
    """Reads datasets; writes staging and checkpoints."""
    PROMOTER = "promoter"
    """Reads staging and the held-out split; writes datasets, releases and the promotion log."""
    SERVER = "server"
    """Reads releases and the promotion log; writes prediction records and heartbeats."""


class S3Key(BaseModel):
    """One access key of the object store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key: str
    secret_key: str = Field(repr=False)


class Cluster(BaseModel):
    """Where a person's trainings are submitted to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kubeconfig: str | None = Field(
        default=None, description="File that names the cluster, or several with colons [default: kubectl's own]."
    )
    context: str = Field(description="Context in it.")
    namespace: str = Field(description="Namespace of trainings.")


class Connection(BaseModel):
    """Addresses of a platform, and the credentials that this process may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    s3_endpoint: str = Field(description="URL of the S3 API, http://host:port.")
    s3_region: str = Field(default="us-east-1", description="Region used in request signatures.")
    bucket: str = Field(default="modelport", description="Bucket of datasets, staging, releases, promotions, records.")
    s3_keys: dict[Role, S3Key] = Field(default_factory=dict, description="Access keys by identity.")
    tracking_uri: str = Field(default="", description="URL of MLflow.")
    tracking_username: str | None = Field(default=None, description="MLflow user.")
    tracking_password: str | None = Field(default=None, repr=False, description="MLflow password.")
    triton_http: str = Field(default="", description="host:port of Triton's HTTP API.")
    triton_grpc: str = Field(default="", description="host:port of Triton's gRPC API.")
    triton_admin_key: str | None = Field(default=None, repr=False, description="Value of Triton's restricted header.")
    agent_urls: tuple[str, ...] = Field(default=(), description="URL of each serving replica's agent.")
    gateway_url: str = Field(default="", description="URL of the gateway.")
    gateway_api_key: str | None = Field(default=None, repr=False, description="This caller's key at the gateway.")
    cluster: Cluster | None = Field(default=None, description="Cluster that trains; none trains on this machine.")

    def key_for(self, role: Role) -> S3Key:
        """Access key of an identity.

        Raises:
            Refused: this connection does not hold it.
        """
        try:
            return self.s3_keys[role]
        except KeyError:
            held = ", ".join(sorted(self.s3_keys)) or "none"
            raise Refused(
                f"this connection has no {role} identity (it has: {held})",
                remedy=f"run this command with a connection file that holds the {role}'s key",
            ) from None

    def configure_tracking(self) -> None:
        """Set the environment that MLflow's client reads; call it before the first use of mlflow.

        Retries are bounded: the client's defaults would hold a command for many minutes when the server is away.
        """
        if not self.tracking_uri:
            raise Unavailable("this connection names no MLflow server", key="tracking_uri")
        os.environ["MLFLOW_TRACKING_URI"] = self.tracking_uri
        for name, value in (
            ("MLFLOW_TRACKING_USERNAME", self.tracking_username),
            ("MLFLOW_TRACKING_PASSWORD", self.tracking_password),
        ):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        # Otherwise the client prints addresses between the lines of a training; commands print their own.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

    def restricted_to(self, *roles: Role) -> "Connection":
        """The same platform with only these identities, for handing to a process with fewer rights."""
        return self.model_copy(update={"s3_keys": {role: self.key_for(role) for role in roles}})

    def save(self, path: Path) -> None:
        """Write atomically, readable by the owner only."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(self.model_dump_json(indent=2))
        temporary.replace(path)

    @staticmethod
    def default_path() -> Path:
        """``$MODELPORT_CONNECTION``, or ``connection.json`` in the state folder."""
        named = os.environ.get("MODELPORT_CONNECTION")
        return Path(named) if named else state_folder() / "connection.json"

    @classmethod
    def load(cls, path: Path | None = None) -> "Connection":
        """Read the connection file.

        Raises:
            Unavailable: there is none.
            BadInput: it is not a valid connection.
        """
        path = path or cls.default_path()
        try:
            text = path.read_text()
        except FileNotFoundError:
            raise Unavailable(
                "no platform is connected: there is no connection file",
                file=path,
                remedy="start one with `modelport local up`, or reach a cluster's with `modelport connect STACK`",
            ) from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadInput(
                first["msg"],
                file=path,
                key=".".join(map(str, first["loc"])) or None,
                remedy="write it anew with `modelport local up`",
            ) from None
