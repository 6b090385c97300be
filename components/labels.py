"""Labels that every object carries, and the words that selectors and network policies agree on."""

import re
from collections.abc import Mapping
from enum import StrEnum

NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "app.kubernetes.io/managed-by"
STACK = "modelport.dev/stack"
OWNER = "modelport.dev/owner"
MODEL = "modelport.dev/model"
POOL = "modelport.dev/pool"


class Component(StrEnum):
    """What a pod is for: the value of the label that network policies select by."""

    OBJECT_STORE = "object-store"
    OBJECT_STORE_SETUP = "object-store-setup"
    POSTGRES = "postgres"
    POSTGRES_SETUP = "postgres-setup"
    POSTGRES_BACKUP = "postgres-backup"
    MLFLOW = "mlflow"
    MLFLOW_SETUP = "mlflow-setup"
    RAY = "ray"
    RAY_SUBMITTER = "ray-submitter"
    TRAINING_TRIGGER = "training-trigger"
    TRITON = "triton"
    GATEWAY = "gateway"
    LOAD_TEST = "load-test"
    KUBERAY_OPERATOR = "kuberay-operator"


def labels_for(name: str, component: Component, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Labels of an object: its name, what it is for, and what the caller adds (stack, owner, model).

    Args:
        name: The name of the instance, as people see it.
        component: What it is for.
        extra: The caller's own labels; they may not replace the standard ones.
    """
    return {
        **(extra or {}),
        NAME: name,
        COMPONENT: component.value,
        PART_OF: "modelport",
        MANAGED_BY: "pulumi",
    }


def selector_for(name: str, component: Component) -> dict[str, str]:
    """The part of `labels_for` that never changes, for selectors, which are immutable."""
    return {NAME: name, COMPONENT: component.value}


def label_value(text: str) -> str:
    """Text as a label's value: letters, digits, dots, dashes and underscores, at most 63."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:63].strip("-._") or "unknown"
