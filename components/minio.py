"""MinIO: its StatefulSet, and the Job that tells it about buckets and consumers. Pure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pulumi

from components import object_args, object_rights, object_server, pods, ports
from components.jobs import GENERATION
from components.object_args import Consumer, ObjectStoreArgs, StoreBucket
from components.pods import Container, Manifest, Mount, Resources
from components.versions import Image, reference

_SCRIPTS = Path(__file__).with_name("scripts")

_DATA = "/data"
_TLS = "/tls"


def spec(name: str, args: ObjectStoreArgs, labels: Mapping[str, str], account: pulumi.Input[str]) -> Manifest:
    """MinIO's StatefulSet."""
    replicas, scheme = object_args.replicas(args), object_args.scheme(args)
    if replicas == 1:
        volumes: pulumi.Input[str] = _DATA
    else:
        peers = f"{scheme}://{name}-{{0...{replicas - 1}}}.{name}-peers."
        volumes = pulumi.Output.concat(peers, args["namespace"], f".svc.cluster.local:{ports.OBJECT_STORE}{_DATA}")
    mounts = [pods.scratch(), Mount("data", _DATA, {})]
    if "tls_secret" in args:
        items = {"tls.crt": "public.crt", "tls.key": "private.key", "ca.crt": "CAs/ca.crt"}
        mounts.append(
            Mount(
                "tls",
                _TLS,
                {
                    "secret": {
                        "secretName": args["tls_secret"],
                        "defaultMode": 0o440,
                        "items": [{"key": key, "path": path} for key, path in items.items()],
                    }
                },
                read_only=True,
            )
        )
    container = Container(
        "minio",
        reference(Image.MINIO),
        object_args.resources(args),
        command=["minio"],
        args=[
            "server",
            volumes,
            *("--address", f":{ports.OBJECT_STORE}"),
            *("--certs-dir", _TLS if "tls_secret" in args else "/tmp/certs"),  # noqa: S108
        ],
        env=[
            pods.secret_variable("MINIO_ROOT_USER", f"{name}-root", "user"),
            pods.secret_variable("MINIO_ROOT_PASSWORD", f"{name}-root", "password"),
            pods.variable("MINIO_BROWSER", "off"),
            pods.variable("MINIO_UPDATE", "off"),
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=mounts,
        ports={"s3": ports.OBJECT_STORE},
        readiness=_probe("/minio/health/ready", scheme, period=5),
        liveness=_probe("/minio/health/live", scheme, failures=6),
        startup=_probe("/minio/health/live", scheme, period=2, failures=90),
    )
    annotations = {GENERATION: str(int(args.get("root_generation", 1)))}
    return object_server.stateful_set(name, args, container, labels, account, annotations)


def setup_files(buckets: Sequence[StoreBucket], consumers: Sequence[Consumer]) -> dict[str, str]:
    """Content of the setup's ConfigMap: the script, and what it shall bring about. No secret."""
    files = {
        "setup.sh": (_SCRIPTS / "minio_setup.sh").read_text(),
        "buckets": "".join(f"{_bucket(bucket)}\n" for bucket in buckets),
        "consumers": "".join(f"{consumer['name']}\n" for consumer in consumers),
    }
    for bucket in buckets:
        rules = object_rights.lifecycle(bucket)
        if rules:
            files[f"lifecycle-{bucket['name']}.json"] = json.dumps(rules, sort_keys=True)
    for consumer in consumers:
        files[f"policy-{consumer['name']}.json"] = object_rights.minio_policy(consumer)
    return files


def _bucket(bucket: StoreBucket) -> str:
    """A bucket's line: its name, whether it is versioned, and which prefixes of it are not."""
    if not bucket.get("versioning", False):
        return f"{bucket['name']} plain"
    return f"{bucket['name']} versioned {','.join(bucket.get('unversioned', []))}".rstrip()


def setup(name: str, args: ObjectStoreArgs, labels: Mapping[str, str], account: pulumi.Input[str]) -> Manifest:
    """Pod of the Job that tells MinIO about buckets and consumers."""
    mounts = [
        pods.scratch(),
        pods.config_volume("setup", f"{name}-setup", "/setup"),
        pods.secret_volume("keys", f"{name}-keys", "/keys"),
    ]
    if "tls_secret" in args:
        source = {
            "secret": {
                "secretName": args["tls_secret"],
                "defaultMode": 0o440,
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }
        }
        mounts.append(Mount("tls", _TLS, source, read_only=True))
    container = Container(
        "setup",
        reference(Image.MINIO_CLIENT),
        Resources(cpu=0.1, memory="256Mi"),
        command=["/bin/sh", "/setup/setup.sh"],
        env=[
            pods.secret_variable("ROOT_USER", f"{name}-root", "user"),
            pods.secret_variable("ROOT_PASSWORD", f"{name}-root", "password"),
            pods.variable("STORE_SCHEME", object_args.scheme(args)),
            pods.variable("STORE_ADDRESS", object_args.address(name, args["namespace"])),
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=mounts,
    )
    return pods.pod_template([container], labels=labels, service_account=account, restart_policy="Never")


def _probe(path: str, scheme: str, **timing: int) -> Manifest:
    probe = pods.http_probe(path, ports.OBJECT_STORE, **timing)
    return {**probe, "httpGet": {**probe["httpGet"], "scheme": scheme.upper()}}
