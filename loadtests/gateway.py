"""Users of the gateway: they upload an image with their API key and look at the answer."""

import json
import os
import time

from gevent.pool import Pool
from locust import FastHttpUser, task
from session import TIMEOUT_S, golden, questions

from modelport.errors import ModelportError
from modelport.loadtest import Question, gateway_outputs

UNANSWERED = 64
"""Requests of one user that may be under way in an open loop; one that is due beyond them counts as failed."""


class GatewayUser(FastHttpUser):
    """Sends golden images one after another; the key is in the environment's MODELPORT_GATEWAY_API_KEY."""

    network_timeout = TIMEOUT_S
    connection_timeout = TIMEOUT_S
    # What a user would see is counted: a request that is tried again in silence is a failure that nobody sees.
    max_retries = 0
    concurrency = UNANSWERED

    def on_start(self) -> None:
        """Prepare what every request needs."""
        options = self.environment.parsed_options
        assert options is not None
        self.questions = questions(self.environment)
        key = os.environ.get("MODELPORT_GATEWAY_API_KEY", "")
        self.headers = {"X-API-Key": key} if key else {}
        self.path = f"/v1/models/{options.model}/predict"
        self.interval = 1 / options.arrivals if options.arrivals else 0.0
        self.due = time.monotonic()
        self.under_way = Pool(UNANSWERED)

    def on_stop(self) -> None:
        """What was asked is waited for: an answer that never comes is a failure, not a silence."""
        self.under_way.join(timeout=TIMEOUT_S)

    def wait_time(self) -> float:
        """Seconds until the next request is due."""
        self.due += self.interval
        return max(0.0, self.due - time.monotonic())

    @task
    def predict(self) -> None:
        """Ask; in an open loop without waiting for the answer."""
        question = next(self.questions)
        if not self.interval:
            self.ask(question)
        elif self.under_way.full():
            self.environment.events.request.fire(
                request_type="POST",
                name=self.path,
                start_time=time.time(),
                response_time=0.0,
                response_length=0,
                exception=AssertionError(f"{UNANSWERED} answers of one user are outstanding"),
                context={},
            )
        else:
            self.under_way.spawn(self.ask, question)

    def ask(self, question: Question) -> None:
        """One image in; the answer back, from a release that this run expects. Each release is a row of the report."""
        files = {"image": (question.name, question.data, question.media_type)}
        with self.client.post(self.path, files=files, headers=self.headers, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {refusal(response.text) or response.error}"[:200])
                return
            try:
                release, outputs, precision = gateway_outputs(response.json())
            except (ModelportError, ValueError, LookupError, TypeError) as error:
                response.failure(f"an answer that nobody can read: {error!r}"[:200])
                return
            response.request_meta["name"] = f"{self.path} by {release[:12]}"
            problem = golden(self.environment).problem(question, outputs, release, precision)
            if problem:
                response.failure(problem)


def refusal(text: str | None) -> str:
    """What the gateway says of a request that it refuses, without the request's own number: a reason is one reason."""
    try:
        said = json.loads(text or "")
        return f"{said['reason']}: {said['message']}"
    except (ValueError, KeyError, TypeError):
        return text or ""
