"""The MLflow server on one machine: SQLite, artifacts proxied to the object store, password and allowed hosts."""

import sys
from pathlib import Path

from modelport.connection import S3Key
from modelport.local.files import write_private
from modelport.local.s3 import ARTIFACT_BUCKET

USERNAME = "admin"


def command(folder: Path, port: int) -> list[str]:
    """Command line of the server."""
    hosts = [f"{host}{suffix}" for host in ("127.0.0.1", "localhost") for suffix in ("", f":{port}")]
    return [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "server",
        "--app-name=basic-auth",
        f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
        f"--artifacts-destination=s3://{ARTIFACT_BUCKET}",
        "--host=127.0.0.1",
        f"--port={port}",
        "--workers=1",
        f"--allowed-hosts={','.join(hosts)}",
    ]


def write_config(folder: Path) -> None:
    """Write the configuration of the server's logins. It holds no password: that one is in the environment."""
    write_private(
        folder / "auth.ini",
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\n"
        f"admin_username = {USERNAME}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # A password check is deliberately slow; a training run that reports every step would pay it every time.
        "auth_cache_ttl_seconds = 60\n",
    )


def forget_logins(folder: Path) -> None:
    """Let the server make its admin anew, with the current password."""
    (folder / "auth.db").unlink(missing_ok=True)


QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""For a server that tells nobody, and starts no runners of jobs beside itself: nothing here asks for them."""


def environment(folder: Path, password: str, session_key: str, s3_endpoint: str, s3_key: S3Key) -> dict[str, str]:
    """Environment of the server: its own key for the bucket of artifacts, and its admin's password."""
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": session_key,
        "MLFLOW_S3_ENDPOINT_URL": s3_endpoint,
        **QUIET,
        "AWS_ACCESS_KEY_ID": s3_key.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_key.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
