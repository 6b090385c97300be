"""What the servers of every engine have in common: Services, claims, StatefulSet. Pure."""

from collections.abc import Mapping

import pulumi

from components import object_args, pods, ports
from components.labels import Component, selector_for
from components.object_args import ObjectStoreArgs
from components.pods import Container, Manifest


def services(name: str) -> dict[str, Manifest]:
    """The Service that clients call, and the headless one by which replicas find each other, by name."""
    selector = selector_for(name, Component.OBJECT_STORE)
    port = {"name": "s3", "port": ports.OBJECT_STORE, "targetPort": ports.OBJECT_STORE, "protocol": "TCP"}
    return {
        name: {"type": "ClusterIP", "selector": selector, "ports": [port]},
        f"{name}-peers": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector,
            "ports": [port],
        },
    }


def claim_spec(args: ObjectStoreArgs) -> Manifest:
    """A PersistentVolumeClaim's spec."""
    storage_class = {"storageClassName": args["storage_class"]} if "storage_class" in args else {}
    return {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": args["size"]}},
        **storage_class,
    }


def stateful_set(
    name: str,
    args: ObjectStoreArgs,
    container: Container,
    labels: Mapping[str, str],
    account: pulumi.Input[str],
    annotations: Mapping[str, str],
) -> Manifest:
    """A StatefulSet of replicas with a volume named ``data`` each; `annotations` change to start them anew."""
    selector = selector_for(name, Component.OBJECT_STORE)
    replicas = object_args.replicas(args)
    template = pods.pod_template(
        [container],
        labels=labels,
        service_account=account,
        annotations=annotations,
        grace_seconds=60,
        spread_by=selector if replicas > 1 else None,
    )
    spec = template["spec"]
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "data"]  # it is claimed instead
    return {
        "replicas": replicas,
        "serviceName": f"{name}-peers",
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "selector": {"matchLabels": selector},
        "template": template,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": selector}, "spec": claim_spec(args)}],
    }
