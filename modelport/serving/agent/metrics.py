"""Metrics of an agent, in Prometheus's terms."""

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class AgentMetrics:
    """One registry per agent, so that two in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.serving = Gauge(
            "modelport_agent_serving",
            "1 for the release that the alias of a model answers with.",
            ["model", "release"],
            registry=self.registry,
        )
        self.converged = Gauge(
            "modelport_agent_converged",
            "1 when the desired release of a model is the one that serves.",
            ["model"],
            registry=self.registry,
        )
        self.failures = Counter(
            "modelport_agent_failures",
            "What kept a desired release from serving: digest, manifest, precision, load, replay (the release is "
            "refused); store, triton, disk (tried again); unexpected. And remove: a superseded one does not go.",
            ["model", "reason"],
            registry=self.registry,
        )
        self.source_failures = Counter(
            "modelport_agent_source_failures",
            "Looks at the source of desired versions that failed.",
            registry=self.registry,
        )
        self.heartbeat_failures = Counter(
            "modelport_agent_heartbeat_failures", "Heartbeats that could not be written.", registry=self.registry
        )
        self.bring_seconds = Histogram(
            "modelport_agent_bring_seconds",
            "Seconds to fetch, verify, load and replay a release.",
            ["model"],
            buckets=(0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
            registry=self.registry,
        )

    def show_serving(self, model: str, before: str | None, now: str | None) -> None:
        """Move the 1 of `serving` from one release to another."""
        if before is not None and before != now:
            self.serving.remove(model, before)
        if now is not None:
            self.serving.labels(model, now).set(1)

    def forget(self, model: str, serving: str | None) -> None:
        """Drop what is told of a model that is no longer served here."""
        self.show_serving(model, serving, None)
        with suppress(KeyError):  # it never came so far
            self.converged.remove(model)
