"""Operators of others that the platform needs, as their own Helm charts: KEDA and cert-manager."""

from typing import Any, NotRequired, TypedDict, cast

import pulumi
import pulumi_kubernetes as kubernetes

from components.pods import Resources
from components.versions import CHART_REPOSITORIES, CHART_VERSIONS, Chart

Values = dict[str, Any]


class KedaArgs(TypedDict):
    """Arguments of `Keda`."""

    namespace: pulumi.Input[str]
    """Namespace that it runs in."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object, beside the chart's own."""


class Keda(pulumi.ComponentResource):
    """KEDA, which scales Triton's pools by what Prometheus says."""

    release: pulumi.Output[str]
    """Name of the Helm release; depend on it before making a ScaledObject."""

    def __init__(self, name: str, args: KedaArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelport:index:Keda", name, {**args}, opts)
        release = chart_release(self, name, Chart.KEDA, args["namespace"], keda_values(args.get("labels", {})))
        self.release = release.name.apply(lambda given: given or name)
        self.register_outputs({"release": self.release})


class CertManagerArgs(TypedDict):
    """Arguments of `CertManager`."""

    namespace: pulumi.Input[str]
    """Namespace that it runs in."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object, beside the chart's own."""


class CertManager(pulumi.ComponentResource):
    """cert-manager, which keeps the public name's certificate fresh."""

    release: pulumi.Output[str]
    """Name of the Helm release; depend on it before making a Certificate."""

    def __init__(self, name: str, args: CertManagerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelport:index:CertManager", name, {**args}, opts)
        values = cert_manager_values(args["namespace"], args.get("labels", {}))
        release = chart_release(self, name, Chart.CERT_MANAGER, args["namespace"], values)
        self.release = release.name.apply(lambda given: given or name)
        self.register_outputs({"release": self.release})


def chart_release(
    parent: pulumi.Resource,
    name: str,
    chart: Chart,
    namespace: pulumi.Input[str],
    values: Values,
    depends_on: list[pulumi.Resource] | None = None,
) -> kubernetes.helm.v3.Release:
    """A Helm release of a chart at its pinned version, called as it is, taken back when it fails."""
    return kubernetes.helm.v3.Release(
        name,
        name=name,
        chart=chart.value,
        version=CHART_VERSIONS[chart],
        repository_opts={"repo": CHART_REPOSITORIES[chart]},
        namespace=namespace,
        values=values,
        atomic=True,
        timeout=600,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=depends_on or []),
    )


def requested(values: Values) -> Resources:
    """What a chart's pods ask for together, as its values say."""
    found = _requests(values)
    cpu = sum(float(each["cpu"][:-1]) / 1000 if each["cpu"].endswith("m") else float(each["cpu"]) for each in found)
    memory = sum(int(each["memory"][:-2]) * {"Mi": 1, "Gi": 1024}[each["memory"][-2:]] for each in found)
    return Resources(round(cpu, 3), f"{memory}Mi")


def _requests(values: Any) -> list[dict[str, str]]:
    if not isinstance(values, dict):
        return []
    found = cast(Values, values)
    # A volume's claim requests, too.
    if "cpu" in found.get("requests", {}):
        return [found["requests"]]
    return [each for part in found.values() for each in _requests(part)]


def resources(cpu: str, memory: str, cpu_limit: str = "1") -> Values:
    """Requests and limits as charts want them; memory is both, as everywhere here."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu_limit, "memory": memory}}


def keda_values(extra: dict[str, str]) -> Values:
    """KEDA for Deployments and StatefulSets, with the rights that those need.

    The chart's own security contexts are restricted already.
    """
    return {
        "additionalLabels": extra,
        # By default it could scale, and therefore read, every kind of resource in the cluster.
        "rbac": {"enabledCustomScaledRefKinds": False},
        "permissions": {"operator": {"restrict": {"secret": True}}, "metricServer": {"restrict": {"secret": True}}},
        "resources": {
            "operator": resources("100m", "512Mi"),
            "metricServer": resources("100m", "256Mi"),
            "webhooks": resources("50m", "128Mi"),
        },
    }


def cert_manager_values(namespace: pulumi.Input[str], extra: dict[str, str]) -> Values:
    """cert-manager with its definitions; its leader election stays in its own namespace.

    The chart's own security contexts are restricted already.
    """
    return {
        "global": {"commonLabels": extra, "leaderElection": {"namespace": namespace}},
        # The definitions outlive the release: taking them away would take every certificate along.
        "crds": {"enabled": True, "keep": True},
        "config": {
            "apiVersion": "controller.config.cert-manager.io/v1alpha1",
            "kind": "ControllerConfiguration",
            "enableGatewayAPI": True,
        },
        # Before it asks for a certificate it looks for its proof in DNS: at the cluster's servers, which every pod may
        # ask, and not at the name's own somewhere on the internet.
        "dns01RecursiveNameserversOnly": True,
        "resources": resources("50m", "256Mi"),
        "webhook": {"resources": resources("50m", "128Mi")},
        "cainjector": {"resources": resources("50m", "256Mi")},
        "startupapicheck": {"resources": resources("50m", "64Mi")},
    }
