"""A real SeaweedFS with the arguments that the component gives it, on free ports."""

import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import httpx
import pytest
from botocore.config import Config

from components import seaweedfs
from tests.plain_http import HTTP

_INTERNAL = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


@contextmanager
def serving(folder: Path, identities: str) -> Generator[str]:
    """The endpoint of a store with these identities, while the block runs."""
    program = Path(sys.executable).with_name("weed")
    if not program.is_file():
        pytest.skip("SeaweedFS is not installed")
    data = folder / "data"
    data.mkdir(parents=True)
    (folder / "identities.json").write_text(identities)
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(len(_INTERNAL) + 2)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        port, grpc, *internal = [free.getsockname()[1] for free in sockets]
    command = [
        str(program),
        *seaweedfs.arguments(str(data), str(folder / "identities.json"), port),
        f"-s3.port.grpc={grpc}",
        *(f"-{name}={number}" for name, number in zip(_INTERNAL, internal, strict=True)),
    ]
    with (folder / "weed.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _wait(endpoint, folder / "weed.log")
            yield endpoint
        finally:
            process.kill()  # its data goes too, and a clean end takes it many seconds


def client(endpoint: str, access_key: str, secret_key: str):
    """An S3 client of somebody."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
        ),
    )


def _wait(endpoint: str, log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            # The path that the pod's probes ask.
            if HTTP.get(f"{endpoint}/healthz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"SeaweedFS did not answer:\n{log.read_text()[-2000:]}")
