"""What the component package offers, and its schema."""

import inspect
import json
import sys
from typing import Any

import pulumi
from pulumi.provider.experimental.component import ComponentProvider

from components.charts import CertManager, Keda
from components.gateway import Gateway
from components.gke import CpuNodePool, GkeCluster, GpuNodePool
from components.kuberay import KubeRayOperator, Training
from components.load_test import LoadTest
from components.mlflow import MlflowServer
from components.monitoring import ModelMonitoring, Monitoring
from components.namespace import SecureNamespace
from components.object_store import ObjectStore
from components.postgres import Postgres
from components.triton import TritonPool

NAME = "modelport"
VERSION = "0.1.0"

COMPONENTS: list[type[pulumi.ComponentResource]] = [
    CertManager,
    CpuNodePool,
    Gateway,
    GkeCluster,
    GpuNodePool,
    Keda,
    KubeRayOperator,
    LoadTest,
    MlflowServer,
    ModelMonitoring,
    Monitoring,
    ObjectStore,
    Postgres,
    SecureNamespace,
    Training,
    TritonPool,
]
"""Everything that another project may use."""


def schema() -> dict[str, Any]:
    """The package's Pulumi schema, as the plugin answers it."""
    for component in COMPONENTS:
        # Indentation of the source would show as code blocks in generated documentation.
        component.__doc__ = inspect.cleandoc(component.__doc__ or "")
    provider = ComponentProvider(COMPONENTS, NAME, None, VERSION)  # pyright: ignore[reportArgumentType]
    assert provider.schema is not None
    return json.loads(provider.schema)


if __name__ == "__main__":
    json.dump(schema(), sys.stdout, indent=2, sort_keys=True)
    print()
