"""The numbers that people quote: percentiles, rates, and what counts as failed."""

from pathlib import Path

import pytest

from modelport.errors import ModelportError
from modelport.loadtest import Sample, read_samples, summarize
from modelport.loadtest.plot import latency_plot

HEADER = "timestamp,request_type,name,response_time_ms,response_length,status_code,exception\n"


def report_of(samples: list[Sample]):
    return summarize(samples, model="m", target="gateway", releases=["d" * 64], users=2)


def test_percentiles_are_nearest_rank_over_right_answers_only() -> None:
    samples = [Sample(float(n), float(n), "") for n in range(1, 101)] + [Sample(50.0, 9999.0, "503: away")]
    report = report_of(samples)
    assert (report.p50_ms, report.p90_ms, report.p99_ms, report.max_ms) == (50.0, 90.0, 99.0, 100.0)
    assert (report.requests, report.failed, report.failures) == (101, 1, {"503: away": 1})
    assert not report.passed


def test_a_rate_counts_right_answers_over_the_whole_span() -> None:
    report = report_of([Sample(100.0, 500.0, ""), Sample(100.5, 500.0, ""), Sample(101.0, 1000.0, "wrong")])
    assert report.seconds == 2.0
    assert report.requests_per_s == 1.0


def test_no_request_at_all_is_no_success() -> None:
    report = report_of([])
    assert not report.passed
    assert report.p50_ms is None
    assert latency_plot([], report).startswith(b"\x89PNG")


def test_a_last_line_cut_off_by_a_killed_run_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "requests.csv"
    file.write_text(HEADER + '2.0,POST,/p,12.5,100,200,\n1.0,POST,/p,11.0,100,0,"two\nlines"\n3.0,PO')
    assert read_samples(file) == [Sample(1.0, 11.0, "two\nlines"), Sample(2.0, 12.5, "")]


def test_damage_elsewhere_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "requests.csv"
    file.write_text(HEADER + "what,POST,/p,12.5,100,200,\n1.0,POST,/p,11.0,100,200,\n")
    with pytest.raises(ModelportError, match=r"requests\.csv:2: not a sample"):
        read_samples(file)
    with pytest.raises(ModelportError, match="left no samples"):
        read_samples(tmp_path / "none.csv")
