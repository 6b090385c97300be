"""Reusable Pulumi components of the platform: GKE, object store, MLflow, KubeRay, Triton, gateway, monitoring."""
