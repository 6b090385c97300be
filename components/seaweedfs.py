"""SeaweedFS: its StatefulSet, and the Job that makes its buckets by the S3 API. Pure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pulumi

from components import object_args, object_rights, object_server, pods, ports
from components.jobs import GENERATION, fingerprint
from components.object_args import ObjectStoreArgs, StoreBucket
from components.pods import Container, Manifest, Mount, Resources
from components.versions import Image, reference

_SCRIPTS = Path(__file__).with_name("scripts")

_DATA = "/data"
_IDENTITIES = "/etc/seaweedfs"


def spec(name: str, args: ObjectStoreArgs, labels: Mapping[str, str], account: pulumi.Input[str]) -> Manifest:
    """SeaweedFS's StatefulSet: everything in one process, of which only the S3 gateway can be reached."""
    container = Container(
        "seaweedfs",
        reference(Image.SEAWEEDFS),
        object_args.resources(args),
        command=["weed"],
        args=arguments(_DATA, f"{_IDENTITIES}/identities.json", ports.OBJECT_STORE),
        env=[
            *(
                pods.secret_variable(variable, f"{name}-root", "signing-key")
                for variable in (
                    "WEED_JWT_SIGNING_KEY",
                    "WEED_JWT_SIGNING_READ_KEY",
                    "WEED_JWT_FILER_SIGNING_KEY",
                )
            ),
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=[
            pods.scratch(),
            Mount("data", _DATA, {}),
            Mount(
                "identities",
                _IDENTITIES,
                {
                    "secret": {
                        "secretName": f"{name}-root",
                        "defaultMode": 0o440,
                        "items": [{"key": "identities.json", "path": "identities.json"}],
                    }
                },
                read_only=True,
            ),
        ],
        ports={"s3": ports.OBJECT_STORE},
        readiness=pods.http_probe("/healthz", ports.OBJECT_STORE, period=5),
        liveness=pods.http_probe("/healthz", ports.OBJECT_STORE, failures=6),
        startup=pods.http_probe("/healthz", ports.OBJECT_STORE, period=2, failures=90),
    )
    # It reads its identities once: what changes them starts it anew.
    plan = [
        object_args.generations(args),
        int(args.get("root_generation", 1)),
        [dict(found) for found in args["consumers"]],
    ]
    return object_server.stateful_set(name, args, container, labels, account, {GENERATION: fingerprint(plan)})


def arguments(data: str, identities: str, port: int) -> list[str]:
    """Arguments of ``weed``. Its inner ports listen on the loopback interface only: they know no identities."""
    return [
        "-logtostderr",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={data}",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        # A bucket takes seven volumes at once, and a number guessed from the free disk runs out.
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=1000",
        "-volume.minFreeSpace=1GiB",
        "-volume.preStopSeconds=0",
        "-filer.disableHttp",
        "-s3",
        "-s3.ip.bind=0.0.0.0",
        f"-s3.port={port}",
        f"-s3.config={identities}",
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]


def setup_files(buckets: Sequence[StoreBucket]) -> dict[str, str]:
    """Content of the ConfigMap of a setup by the S3 API alone."""
    wanted = [
        {
            "name": bucket["name"],
            "versioned": bucket.get("versioning", False),
            "lifecycle": object_rights.lifecycle(bucket),
        }
        for bucket in buckets
    ]
    return {
        "bucket_setup.py": (_SCRIPTS / "bucket_setup.py").read_text(),
        "buckets.json": json.dumps(wanted, sort_keys=True),
    }


def setup(name: str, args: ObjectStoreArgs, labels: Mapping[str, str], account: pulumi.Input[str]) -> Manifest:
    """Pod of the Job that makes the buckets by the S3 API alone."""
    container = Container(
        "setup",
        args.get("tool_image", ""),
        Resources(cpu=0.1, memory="256Mi"),
        command=["python", "-P", "/setup/bucket_setup.py"],
        env=[
            pods.variable("S3_ENDPOINT", pulumi.Output.concat("http://", object_args.address(name, args["namespace"]))),
            pods.secret_variable("AWS_ACCESS_KEY_ID", f"{name}-root", "user"),
            pods.secret_variable("AWS_SECRET_ACCESS_KEY", f"{name}-root", "password"),
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=[pods.scratch(), pods.config_volume("setup", f"{name}-setup", "/setup")],
    )
    return pods.pod_template([container], labels=labels, service_account=account, restart_policy="Never")
