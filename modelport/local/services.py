"""The platform's services: what each runs, where it listens, how it says that it is well."""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field

from modelport.connection import Connection, Role
from modelport.local import mlflow, s3, triton
from modelport.local.layout import Layout
from modelport.local.settings import Settings


@dataclass(frozen=True)
class Service:
    """One supervised process."""

    name: str
    command: list[str]
    url: str
    """Where people and programs reach it."""
    health: str
    """URL that answers 200 when it is well."""
    ports: list[int]
    """Every port that it listens on."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    """Added to a cleaned copy of the caller's."""
    stop_signal: str = "TERM"
    stop_seconds: int = 5
    """How long it may take to stop before it is killed."""

    def digest(self) -> str:
        """Changes when the process would have to be started anew."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


NAMES = ("s3", "mlflow", "triton", "agent", "gateway")


SUPERSEDED_S = 600
"""For so long a version that was superseded can still be chosen on the page and by `predict --release`."""


def services(layout: Layout, settings: Settings, environment: triton.TritonEnvironment) -> list[Service]:
    """All services, in the order of `NAMES`."""
    ports, secrets = settings.ports, settings.secrets
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    return [
        Service(
            name="s3",
            command=s3.command(
                s3.weed_program(),
                layout.data_of("s3"),
                layout.data_of("s3-config") / "identities.json",
                ports["s3"],
                {name: ports[f"s3-{name}"] for name in s3.INTERNAL_PORTS},
            ),
            environment=s3.environment(secrets.s3_signing_key) | {"HOME": str(layout.data_of("s3-config"))},
            url=urls["s3"],
            health=f"{urls['s3']}/healthz",
            ports=[ports["s3"], *(ports[f"s3-{name}"] for name in s3.INTERNAL_PORTS)],
            # It keeps what it acknowledged even when killed, and its graceful stop waits 15 s for its own connections.
            stop_signal="KILL",
        ),
        Service(
            name="mlflow",
            command=mlflow.command(layout.data_of("mlflow"), ports["mlflow"]),
            environment=mlflow.environment(
                layout.data_of("mlflow"),
                secrets.mlflow_password,
                secrets.mlflow_session_key,
                urls["s3"],
                secrets.s3_keys[s3.Identity.MLFLOW],
            ),
            url=urls["mlflow"],
            health=f"{urls['mlflow']}/health",
            ports=[ports["mlflow"]],
        ),
        Service(
            name="triton",
            command=triton.command(environment, layout.triton, ports, secrets.triton_admin_key, layout.state_id),
            environment=triton.process_environment(environment),
            url=urls["triton-http"],
            health=f"{urls['triton-http']}/v2/health/ready",
            ports=[ports["triton-http"], ports["triton-grpc"], ports["triton-metrics"]],
            stop_seconds=8,
        ),
        Service(
            name="agent",
            command=[
                *_modelport("agent"),
                f"--repository={layout.triton / 'repository'}",
                "--source=log",
                f"--grace={SUPERSEDED_S}",
                f"--listen=127.0.0.1:{ports['agent']}",
            ],
            environment={"MODELPORT_CONNECTION": str(layout.connection_of("agent"))},
            url=urls["agent"],
            health=f"{urls['agent']}/healthz",
            ports=[ports["agent"]],
        ),
        Service(
            name="gateway",
            command=[
                *_modelport("gateway"),
                f"--listen=127.0.0.1:{ports['gateway']}",
                f"--keys={layout.gateway_keys}",
                f"--spool={layout.data_of('gateway') / 'spool'}",
            ],
            environment={"MODELPORT_CONNECTION": str(layout.connection_of("gateway"))},
            url=urls["gateway"],
            health=f"{urls['gateway']}/healthz",
            ports=[ports["gateway"]],
        ),
    ]


def connection(settings: Settings) -> Connection:
    """The connection of this platform's owner, who holds every role."""
    ports, secrets = settings.ports, settings.secrets
    return Connection(
        s3_endpoint=f"http://127.0.0.1:{ports['s3']}",
        s3_keys={role: secrets.s3_keys[s3.Identity(role.value)] for role in Role},
        tracking_uri=f"http://127.0.0.1:{ports['mlflow']}",
        tracking_username=mlflow.USERNAME,
        tracking_password=secrets.mlflow_password,
        triton_http=f"127.0.0.1:{ports['triton-http']}",
        triton_grpc=f"127.0.0.1:{ports['triton-grpc']}",
        triton_admin_key=secrets.triton_admin_key,
        agent_urls=(f"http://127.0.0.1:{ports['agent']}",),
        gateway_url=f"http://127.0.0.1:{ports['gateway']}",
        gateway_api_key=secrets.gateway_api_key,
    )


def service_connections(owner: Connection) -> dict[str, Connection]:
    """What agent and gateway may know: the server's key alone, no MLflow, and only the agent may change Triton."""
    server = owner.restricted_to(Role.SERVER).model_copy(
        update={"tracking_uri": "", "tracking_username": None, "tracking_password": None, "gateway_api_key": None}
    )
    return {"agent": server, "gateway": server.model_copy(update={"triton_admin_key": None})}


def _modelport(command: str) -> list[str]:
    return [sys.executable, "-P", "-m", "modelport", command]
