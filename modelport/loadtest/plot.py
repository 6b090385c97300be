"""A load test as a picture."""

import io
from collections.abc import Sequence

from modelport.loadtest.report import LoadReport, Sample

RIGHT, WRONG, INK = "#2f6f9f", "#c0392b", "#44505c"


def latency_plot(samples: Sequence[Sample], report: LoadReport) -> bytes:
    """PNG: each request's latency over time, and their distribution with the median and the 99th percentile."""
    from matplotlib.figure import Figure

    begin = min((sample.start for sample in samples), default=0.0)
    right = [sample for sample in samples if not sample.error]
    wrong = [sample for sample in samples if sample.error]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    over_time, distribution = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)

    over_time.scatter(
        [s.start - begin for s in right], [s.milliseconds for s in right], s=9, alpha=0.6, color=RIGHT, linewidths=0
    )
    if wrong:
        over_time.scatter(
            [s.start - begin for s in wrong], [s.milliseconds for s in wrong], s=24, marker="x", color=WRONG
        )
    over_time.set(xlabel="seconds", ylabel="milliseconds")
    over_time.set_title(f"{report.target}, {report.users} at a time", loc="left", fontsize=10, color=INK)

    if right:
        distribution.hist([s.milliseconds for s in right], bins=40, orientation="horizontal", color=RIGHT, alpha=0.85)
    for value, name in ((report.p50_ms, "p50"), (report.p99_ms, "p99")):
        if value is not None:
            distribution.axhline(value, color=INK, linewidth=0.9, linestyle="--")
            distribution.annotate(
                f"{name}  {value:.0f} ms",
                (0.97, value),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                fontsize=9,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
    distribution.set(xlabel="requests")
    distribution.set_title(
        f"{report.requests} requests, {report.failed} failed", loc="left", fontsize=10, color=WRONG if wrong else INK
    )
    over_time.set_ylim(bottom=0)
    for axes in (over_time, distribution):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e3e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
