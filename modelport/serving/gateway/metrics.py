"""Metrics of a gateway, in Prometheus's terms."""

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

log = logging.getLogger("modelport.gateway")

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class GatewayMetrics:
    """One registry per gateway, so that two in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "modelport_gateway_requests",
            "Predictions asked for; requests without a valid key and for unknown models are model=''.",
            ["model", "status", "reason"],
            registry=self.registry,
        )
        self.answers = Counter(
            "modelport_gateway_answers",
            "Answered predictions by the release that gave them (12 digits of its digest) and its arithmetic.",
            ["model", "release", "precision"],
            registry=self.registry,
        )
        self.unsure = Counter(
            "modelport_gateway_unsure",
            "Classifications that were less sure than their release's threshold.",
            ["model"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "modelport_gateway_seconds",
            "Seconds of answered predictions by phase: decode, inference, total.",
            ["model", "phase"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "modelport_gateway_in_flight", "Predictions that are being worked on.", registry=self.registry
        )
        self.queued = Gauge(
            "modelport_gateway_queued", "Requests that wait until others are answered.", registry=self.registry
        )
        self.records_written = Counter(
            "modelport_gateway_records_written", "Prediction records written to the spool.", registry=self.registry
        )
        self.records_stored = Counter(
            "modelport_gateway_records_stored",
            "Prediction records that the object store has, as far as this process sent them.",
            registry=self.registry,
        )
        self.records_dropped = Counter(
            "modelport_gateway_records_dropped",
            "Prediction records that were lost: spool_full, write_failed, unreadable.",
            ["reason"],
            registry=self.registry,
        )
        self.store_failures = Counter(
            "modelport_gateway_store_failures", "Tries to store records that failed.", registry=self.registry
        )
        self.spool_bytes = Gauge(
            "modelport_gateway_spool_bytes", "Bytes of records that wait in the spool.", registry=self.registry
        )

    def dropped(self, reason: str, count: int, message: str) -> None:
        """Count and log records that were lost."""
        self.records_dropped.labels(reason).inc(count)
        log.error("%d prediction records are lost: %s", count, message)
