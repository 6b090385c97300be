"""Load tests: short runs of Locust's users against a platform, and what they measured.

The users themselves are in the project's ``loadtests/``; this room starts them, reads their samples and writes the
report.
"""

from modelport.loadtest.golden import GatewayAnswer, Golden, Question, gateway_outputs
from modelport.loadtest.report import LoadReport, Sample, read_samples, summarize
from modelport.loadtest.run import Target, fetch_releases, measure, promoted_release, run

__all__ = [
    "GatewayAnswer",
    "Golden",
    "LoadReport",
    "Question",
    "Sample",
    "Target",
    "fetch_releases",
    "gateway_outputs",
    "measure",
    "promoted_release",
    "read_samples",
    "run",
    "summarize",
]
