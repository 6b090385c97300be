"""A load test of one model: Locust's master and workers as one Job, which ends by itself."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes

from components import connection, pods, ports
from components.gateway import KEY
from components.labels import Component, labels_for, selector_for
from components.pods import Container, Manifest, Resources

_CONNECTION = "/etc/modelport/connection"
_START_AND_STOP_SECONDS = 600
"""Granted beyond the duration: nodes that have to come up, images, workers that wait for each other."""
_KEPT_SECONDS = 7 * 24 * 3600
_NEVER = "0 0 1 1 *"
"""A CronJob must have a schedule, even one that only people start."""


class LoadTestArgs(TypedDict):
    """Arguments of `LoadTest`."""

    namespace: pulumi.Input[str]
    """Namespace that it runs in."""
    image: pulumi.Input[str]
    """The platform image."""
    model: str
    """Name of the model that is asked."""
    target_url: pulumi.Input[str]
    """URL of the gateway."""
    key_secret: pulumi.Input[str]
    """Secret with the caller's API key, key ``api-key``."""
    connection_secret: pulumi.Input[str]
    """Secret whose key ``connection.json`` lets it read releases: their golden files say which answers are right."""
    users: int
    """How many ask at a time; without `rate` each waits for its answer before it asks again."""
    workers: int
    """Worker pods that the users are spread over, at most 256 users each."""
    duration_seconds: int
    """How long, up to an hour."""
    rate: NotRequired[float]
    """Requests per second of all users together, sent when they are due, answered or not [default: each user waits]."""
    schedule: NotRequired[str]
    """When to run it, in cron's terms; absent leaves that to people."""
    suspended: NotRequired[bool]
    """Whether it waits until somebody starts it [default: true].

    False without a schedule runs it once, now.
    """
    labels: NotRequired[dict[str, str]]
    """Further labels of every object."""


class LoadTest(pulumi.ComponentResource):
    """A bounded load test whose answers are held against the release's golden files."""

    start: pulumi.Output[str]
    """Command that runs it now; empty where it runs without being asked."""
    report: pulumi.Output[str]
    """Command that shows what the last runs measured, and follows one that goes on."""

    def __init__(self, name: str, args: LoadTestArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check(args)
        super().__init__("modelport:index:LoadTest", name, {**args}, opts)
        labels = labels_for(name, Component.LOAD_TEST, args.get("labels"))
        namespace = args["namespace"]
        child = pulumi.ResourceOptions(parent=self)

        def metadata(annotations: Mapping[str, str] | None = None) -> Any:
            return {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}

        kubernetes.core.v1.ServiceAccount(name, metadata=metadata(), automount_service_account_token=False, opts=child)
        kubernetes.core.v1.Service(
            name,
            # There is nobody behind it but during a test, and nothing to wait for.
            metadata=metadata({"pulumi.com/skipAwait": "true"}),
            spec=pods.typed(service_spec(name)),
            opts=child,
        )
        job = job_spec(name, args, labels)
        if "schedule" in args or args.get("suspended", True):
            kubernetes.batch.v1.CronJob(
                name,
                metadata=metadata(),
                spec=pods.typed(
                    {
                        "schedule": args.get("schedule", _NEVER),
                        "suspend": bool(args.get("suspended", True)),
                        "concurrencyPolicy": "Forbid",
                        "startingDeadlineSeconds": 600,
                        "jobTemplate": {
                            "metadata": {"labels": labels},
                            "spec": {**job, "ttlSecondsAfterFinished": _KEPT_SECONDS},
                        },
                    }
                ),
                opts=child,
            )
            self.start = pulumi.Output.format(
                "kubectl -n {0} create job {1}-$(date +%s) --from=cronjob/{1}", namespace, name
            )
        else:
            kubernetes.batch.v1.Job(
                name,
                # A test that fails says something of the model, and must not fail the update.
                metadata=metadata({"pulumi.com/skipAwait": "true"}),
                spec=pods.typed(job),
                opts=child,
            )
            self.start = pulumi.Output.from_input("")
        self.report = pulumi.Output.format(
            "kubectl -n {0} logs --tail=-1 -f -l app.kubernetes.io/name={1},batch.kubernetes.io/job-completion-index=0",
            namespace,
            name,
        )
        self.register_outputs({"start": self.start, "report": self.report})


def check(args: LoadTestArgs) -> None:
    """Refuse a test that its own pods would refuse.

    Raises:
        ValueError: and which argument it is.
    """
    users, workers, seconds = int(args["users"]), int(args["workers"]), int(args["duration_seconds"])
    if not 1 <= workers <= 64:
        raise ValueError(f"workers: {workers}; 1 to 64 can be run")
    if not workers <= users <= workers * 256:
        raise ValueError(f"users: {users} on {workers} workers; each worker runs 1 to 256")
    if not 1 <= seconds <= 3600:
        raise ValueError(f"duration_seconds: {seconds}; a run takes 1 to 3600")
    if "rate" in args and not 0 < float(args["rate"]) <= 1000:
        raise ValueError(f"rate: {args['rate']}; up to 1000 requests a second can be sent")


def service_spec(name: str) -> Manifest:
    """A headless Service that gives the master a name that its workers can find, ready or not."""
    return {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector_for(name, Component.LOAD_TEST),
        "ports": [{"name": "locust", "port": ports.LOCUST, "targetPort": ports.LOCUST, "protocol": "TCP"}],
    }


def job_spec(name: str, args: LoadTestArgs, labels: Mapping[str, str]) -> Manifest:
    """The master and its workers: pods 0 and 1 to N of an indexed Job. Nothing is tried again."""
    workers, seconds = int(args["workers"]), int(args["duration_seconds"])
    container = Container(
        "locust",
        args["image"],
        Resources(cpu=0.5, memory="1Gi", cpu_limit=1),
        command=["python", "-m", "modelport.loadtest.cluster"],
        args=[
            args["model"],
            *("--host", args["target_url"]),
            *("--users", str(int(args["users"]))),
            *("--workers", str(workers)),
            *("--duration", str(seconds)),
            *(("--rate", f"{float(args['rate']):g}") if "rate" in args else ()),
            *("--service", name),
        ],
        env=[
            pods.variable("MODELPORT_CONNECTION", f"{_CONNECTION}/{connection.FILE}"),
            pods.secret_variable("MODELPORT_GATEWAY_API_KEY", args["key_secret"], KEY),
            pods.variable("MODELPORT_STATE", "/tmp/state"),  # noqa: S108
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=[pods.scratch(), pods.secret_volume("connection", args["connection_secret"], _CONNECTION)],
        ports={"locust": ports.LOCUST},
    )
    template = pods.pod_template(
        [container],
        labels=labels,
        service_account=name,
        restart_policy="Never",
        grace_seconds=30,
        spread_by=selector_for(name, Component.LOAD_TEST),
    )
    template["spec"]["subdomain"] = name
    return {
        "completionMode": "Indexed",
        "completions": workers + 1,
        "parallelism": workers + 1,
        "backoffLimit": 0,
        "activeDeadlineSeconds": seconds + _START_AND_STOP_SECONDS,
        "template": template,
    }
