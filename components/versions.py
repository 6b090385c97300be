"""Versions of everything external, known here only. Images are named by tag; ``images.json`` adds digests.

``make pin-images`` asks the registries for the digests and writes them into ``images.json``; what is not in there is
used by its tag and listed as unpinned by the policy. No digest is ever invented.
"""

import json
from enum import StrEnum
from pathlib import Path

RAY = "2.60.0"
"""Ray in the platform image; KubeRay wants to know it."""

KUBERNETES_MINIMUM = (1, 30)
"""Sidecar containers and sleep handlers are there from it on: major and minor version."""


class Image(StrEnum):
    """Images of programs that are not ours."""

    KUBERAY_OPERATOR = "quay.io/kuberay/operator:v1.6.0"
    MINIO = "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"
    MINIO_CLIENT = "quay.io/minio/mc:RELEASE.2025-08-13T08-35-41Z"
    """MinIO's own client: users and policies are beyond the S3 API."""
    SEAWEEDFS = "docker.io/chrislusf/seaweedfs:4.48"
    POSTGRES = "docker.io/library/postgres:17.6-bookworm"
    TRITON = "nvcr.io/nvidia/tritonserver:25.09-py3"


class Chart(StrEnum):
    """Helm charts, by the name that their operators publish them under."""

    KUBERAY = "kuberay-operator"
    PROMETHEUS = "kube-prometheus-stack"
    KEDA = "keda"
    CERT_MANAGER = "cert-manager"


CHART_VERSIONS = {
    Chart.KUBERAY: "1.6.0",
    Chart.PROMETHEUS: "77.5.0",
    Chart.KEDA: "2.18.0",
    Chart.CERT_MANAGER: "v1.19.1",
}

CHART_REPOSITORIES = {
    Chart.KUBERAY: "https://ray-project.github.io/kuberay-helm/",
    Chart.PROMETHEUS: "https://prometheus-community.github.io/helm-charts",
    Chart.KEDA: "https://kedacore.github.io/charts",
    Chart.CERT_MANAGER: "https://charts.jetstack.io",
}

_DIGESTS = Path(__file__).with_name("images.json")


def reference(image: str) -> str:
    """An image's reference by tag and, where ``images.json`` has it, digest."""
    digests: dict[str, str] = json.loads(_DIGESTS.read_text())
    digest = digests.get(image)
    return f"{image}@{digest}" if digest else image
