"""Jobs that put a server into a wanted state: rendered here, named after what they do, so that a change runs again."""

import hashlib
import json
from typing import TypeVar

import pulumi
import pulumi_kubernetes as kubernetes

from components.pods import Manifest

T = TypeVar("T")

GENERATION = "modelport.dev/generation"
"""Annotation of a pod that says which generation of credentials it was started with; another one starts it anew."""


def fingerprint(*parts: object) -> str:
    """Ten hex digits that stand for plain values; never for a secret."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def job_spec(template: Manifest, *, deadline_seconds: int = 600, retries: int = 6) -> Manifest:
    """A Job of one pod, tried again until `deadline_seconds` have passed.

    It has no time to live: Pulumi keeps the Job as a resource and would see it vanish.
    """
    return {
        "backoffLimit": retries,
        "activeDeadlineSeconds": deadline_seconds,
        "completions": 1,
        "parallelism": 1,
        "template": template,
    }


def service_account(
    name: str, metadata: "kubernetes.meta.v1.ObjectMetaArgsDict", parent: pulumi.Resource
) -> pulumi.Output[str]:
    """A service account of one workload, without a token in its pods; gives its name, once it is there."""
    account = kubernetes.core.v1.ServiceAccount(
        name,
        metadata=metadata,
        automount_service_account_token=False,
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return account.metadata.apply(lambda made: made.name or name)


def after(value: pulumi.Input[T], *done: pulumi.CustomResource) -> pulumi.Output[T]:
    """A value that is known when all of `done` is; who uses it comes after them."""
    return pulumi.Output.all(value, *(resource.id for resource in done)).apply(lambda found: found[0])
