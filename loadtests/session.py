"""What the three kinds of users share: options, the questions with their right answers, and a line per request.

Locust reads the file of one kind of user, which imports this one:

    locust -f loadtests/gateway.py --headless --users 4 --run-time 15s --host http://127.0.0.1:8080 \
        --model polyp_seg --release .modelport/loadtest/releases/<digest> --samples requests.csv

`modelport loadtest` does that, and makes a report of the samples. The host is always given, never assumed.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.contrib.csv_request_logger import CsvRequestLogger
from locust.env import Environment

from modelport.loadtest import Golden, Question, promoted_release
from modelport.release import FP32

TIMEOUT_S = 15.0
"""A request that takes longer counts as failed."""


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="Name of the model to ask.")
    parser.add_argument(
        "--release",
        action="append",
        required=True,
        metavar="DIR",
        help="Folder of a release that may answer; its golden images are sent. Several while versions change over.",
    )
    parser.add_argument(
        "--precision",
        default=FP32,
        help="Arithmetic that Triton runs the network with, whose tolerances apply; the gateway's answers name it.",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="Judge releases too that are promoted meanwhile: they are read from the connected object store.",
    )
    parser.add_argument(
        "--arrivals",
        type=float,
        default=0.0,
        metavar="PER_SECOND",
        help="Requests that each user sends a second, answered or not; 0: each waits for its answer.",
    )
    parser.add_argument("--samples", metavar="CSV", help="Write a line per request to this file.")


@events.init.add_listener
def _start(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is None or not environment.host:
        raise SystemExit("--host is needed: the address of the server to ask")
    fetch = promoted_release(options.model) if options.follow else None
    folders = [Path(folder) for folder in options.release]
    environment.golden = Golden.load(folders, fetch)  # type: ignore[attr-defined]
    if options.samples:
        # The tail that a killed run may lose is one buffer; flushing each line would be felt in the latencies.
        CsvRequestLogger(options.samples, flush_interval=20).register(environment)
    # Timers count from the loop's last look at the clock, which was before all the imports: a run would end too early.
    gevent.get_hub().loop.update_now()


def questions(environment: Environment) -> Iterator[Question]:
    """The golden images, in turn, for ever."""
    return itertools.cycle(golden(environment).questions)


def golden(environment: Environment) -> Golden:
    """What this run sends, and what it expects."""
    return environment.golden  # type: ignore[attr-defined]


def ask_triton(
    environment: Environment,
    protocol: str,
    question: Question,
    infer: Callable[[], Mapping[str, np.ndarray]],
    expected_errors: tuple[type[BaseException], ...],
) -> None:
    """Time one request to Triton, judge its answer, and tell Locust."""
    options: Any = environment.parsed_options
    start, began = time.time(), time.perf_counter()
    outputs: Mapping[str, np.ndarray] = {}
    error: BaseException | None = None
    try:
        outputs = infer()
    except expected_errors as raised:
        error = raised
    milliseconds = (time.perf_counter() - began) * 1000
    if error is None and (problem := golden(environment).problem(question, outputs, precision=options.precision)):
        error = AssertionError(problem)
    environment.events.request.fire(
        request_type=protocol,
        name=options.model,
        start_time=start,
        response_time=milliseconds,
        response_length=sum(output.nbytes for output in outputs.values()),
        exception=error,
        context={},
    )
