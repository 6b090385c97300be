"""A store that gets raw images from one program and hands results to another; neither can list what is not its own.

`pulumi_modelport` is made from the package's schema by `pulumi install`: nothing is imported from modelport itself.
"""

# ruff: noqa: INP001  a Pulumi project is no package

import pulumi
import pulumi_modelport as modelport

config = pulumi.Config()
S3_PORT = 9000
STORE = {"app.kubernetes.io/component": "object-store"}
SETUP = {"app.kubernetes.io/component": "object-store-setup"}
CLIENT = {"example.com/uses": "object-store"}
"""Label of the pods, in the store's namespace, that may call it; the network is closed to everybody else."""


def connection(
    name: str, subject: dict[str, str], direction: modelport.Direction, peers: list[dict[str, str]]
) -> modelport.NetworkRuleArgsDict:
    """Pods of the namespace may take, or open, connections to the store's port."""
    return {
        "name": name,
        "subject": subject,
        "direction": direction,
        "peers": [{"labels": labels} for labels in peers],
        "ports": [{"port": S3_PORT}],
    }


closed = modelport.SecureNamespace(
    "example",
    namespace=config.require("namespace"),
    rules=[
        connection("store-is-called", STORE, modelport.Direction.INGRESS, [CLIENT, SETUP]),
        connection("setup-calls-store", SETUP, modelport.Direction.EGRESS, [STORE]),
        connection("clients-call-store", CLIENT, modelport.Direction.EGRESS, [STORE]),
    ],
)

store = modelport.ObjectStore(
    "store",
    engine=modelport.ObjectStoreEngine.MINIO,
    namespace=closed.namespace,
    size=config.require("size"),
    buckets=[
        {"name": "raw", "expire": [{"prefix": "inbox/", "days": 7}]},
        {"name": "results", "versioning": True, "noncurrent_days": 14},
    ],
    consumers=[
        {"name": "collector", "grants": [{"bucket": "raw", "read": [], "write": ["inbox/"]}]},
        {
            "name": "analyst",
            "grants": [
                {"bucket": "raw", "read": [""], "write": []},
                {"bucket": "results", "read": [], "write": [""]},
            ],
        },
    ],
)

pulumi.export("endpoint", store.endpoint)
pulumi.export("access_keys", store.access_keys)
pulumi.export("secret_keys", store.secret_keys)
