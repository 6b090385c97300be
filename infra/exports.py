"""What a person needs of a stack that is up: addresses, commands to get credentials, what serves."""

from collections.abc import Mapping

import pulumi

from components.gateway import KEY
from infra.cluster import Cluster
from infra.network import Namespace
from infra.platform import Platform
from infra.settings import Settings
from infra.workload import Served


def export(settings: Settings, cluster: Cluster, platform: Platform, served: Mapping[str, Served]) -> None:
    """Outputs of the stack; none of them is a secret."""
    gateway = platform.gateway
    urls = {
        "gateway": f"https://{settings.gateway.hostname}" if settings.gateway.hostname else gateway.url,
        "mlflow": platform.endpoints.tracking_url,
        "s3": platform.endpoints.s3_endpoint,
    }
    credentials = {
        f"gateway key of {caller}": _show(Namespace.SERVING, gateway.api_key_secrets, caller)
        for caller in settings.gateway.callers
    }
    models = {
        name: {"version": model.version, "pool": model.pool, "train_again": model.train_again}
        for name, model in served.items()
    }
    pulumi.export("cluster", cluster.credentials)
    pulumi.export("context", cluster.context)
    pulumi.export("urls", urls)
    pulumi.export("namespaces", {namespace.name.lower(): namespace.value for namespace in Namespace})
    pulumi.export("credentials", credentials)
    pulumi.export("models", models)


def _show(namespace: Namespace, secrets: pulumi.Output[dict[str, str]], caller: str) -> pulumi.Output[str]:
    """Command that prints a caller's key; Pulumi itself never does."""
    return secrets.apply(
        lambda names: f"kubectl -n {namespace} get secret {names[caller]} -o jsonpath='{{.data.{KEY}}}' | base64 -d"
    )
