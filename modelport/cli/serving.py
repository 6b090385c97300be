"""`modelport agent` and `modelport gateway`: the serving processes, started by a supervisor or a pod."""

import logging
from pathlib import Path

import click

from modelport.errors import BadInput


def _address(listen: str) -> tuple[str, int]:
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(f"{listen!r} is not HOST:PORT", key="--listen", remedy="write for example 127.0.0.1:8090")
    return host.strip("[]") or "127.0.0.1", int(port)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("uvicorn", "httpx", "botocore", "boto3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@click.command()
@click.option("--repository", type=click.Path(path_type=Path), required=True, help="Triton's model repository.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder of verified releases [default: <repository>.cache]."
)
@click.option("--models", default="", help="Models to serve, with commas [default: all that the source knows].")
@click.option(
    "--source",
    default="log",
    show_default=True,
    help="`log` (the promotion logs) or a JSON file {model: digest or null}; null follows the model's promotion log.",
)
@click.option("--listen", default="127.0.0.1:8090", show_default=True, help="HOST:PORT of /state, /readyz, /metrics.")
@click.option("--replica", default="", help="Name of this replica [default: the machine's].")
@click.option("--gpu", is_flag=True, help="Run steps on the GPU of this replica.")
@click.option("--interval", default=1.0, show_default=True, help="Seconds between looks at the source and at Triton.")
@click.option("--grace", default=10.0, show_default=True, help="Seconds that a superseded release stays loaded.")
def agent(
    repository: Path,
    cache: Path | None,
    models: str,
    source: str,
    listen: str,
    replica: str,
    gpu: bool,
    interval: float,
    grace: float,
) -> None:
    """Keep the Triton of the connection serving the desired versions."""
    from modelport.connection import Connection
    from modelport.serving import AgentSettings, Pace, run_agent

    host, port = _address(listen)
    _log_to_stderr()
    settings = AgentSettings(
        repository=repository.absolute(),
        cache=cache.absolute() if cache else None,
        models=tuple(name.strip() for name in models.split(",") if name.strip()),
        pins=None if source == "log" else Path(source),
        replica=replica,
        gpu=gpu,
        pace=Pace(interval=interval, grace=grace),
    )
    run_agent(settings, Connection.load(), host, port)


@click.command()
@click.option("--listen", default="127.0.0.1:8080", show_default=True, help="HOST:PORT of the API.")
@click.option(
    "--keys", type=click.Path(path_type=Path), required=True, help="JSON file {caller: sha256 of the key in hex}."
)
@click.option(
    "--spool", type=click.Path(path_type=Path), required=True, help="Folder for records that are not stored yet."
)
@click.option("--max-megabytes", default=20.0, show_default=True, help="Largest upload.")
@click.option("--max-megapixels", default=50.0, show_default=True, help="Largest image.")
@click.option("--max-in-flight", default=32, show_default=True, help="Predictions worked on at once.")
@click.option(
    "--max-megapixels-in-flight", default=200.0, show_default=True, help="Size of all images worked on at once."
)
@click.option("--max-queued", default=256, show_default=True, help="Requests that wait for their turn at once.")
@click.option("--queue-seconds", default=5.0, show_default=True, help="For which a request may wait for its turn.")
@click.option("--deadline", default=30.0, show_default=True, help="Seconds that an inference may take.")
@click.option("--spool-megabytes", default=64.0, show_default=True, help="Bound of the spool while the store is away.")
@click.option("--record-seconds", default=30.0, show_default=True, help="Records are stored at least this often.")
def gateway(
    listen: str,
    keys: Path,
    spool: Path,
    max_megabytes: float,
    max_megapixels: float,
    max_in_flight: int,
    max_megapixels_in_flight: float,
    max_queued: int,
    queue_seconds: float,
    deadline: float,
    spool_megabytes: float,
    record_seconds: float,
) -> None:
    """Serve the REST API in front of the Triton of the connection."""
    from modelport.connection import Connection
    from modelport.serving import GatewaySettings, run_gateway

    host, port = _address(listen)
    _log_to_stderr()
    settings = GatewaySettings(
        keys=keys,
        spool=spool,
        max_bytes=int(max_megabytes * 1024 * 1024),
        max_pixels=int(max_megapixels * 1_000_000),
        max_in_flight=max_in_flight,
        max_pixels_in_flight=round(max_megapixels_in_flight * 1_000_000),
        max_queued=max_queued,
        queue_seconds=queue_seconds,
        deadline=deadline,
        spool_bytes=int(spool_megabytes * 1024 * 1024),
        record_seconds=record_seconds,
    )
    run_gateway(settings, Connection.load(), host, port)
