"""Users of the gateway: they upload an image with their API key and look at the answer."""

import os

from locust import FastHttpUser, constant, task
from session import TIMEOUT_S, golden, questions

from modelport.errors import ModelportError
from modelport.loadtest import gateway_outputs


class GatewayUser(FastHttpUser):
    """Sends golden images one after another; the key is in the environment's MODELPORT_GATEWAY_API_KEY."""

    wait_time = constant(0)
    network_timeout = TIMEOUT_S
    connection_timeout = TIMEOUT_S

    def on_start(self) -> None:
        """Prepare what every request needs."""
        self.questions = questions(self.environment)
        key = os.environ.get("MODELPORT_GATEWAY_API_KEY", "")
        self.headers = {"X-API-Key": key} if key else {}
        self.path = f"/v1/models/{self.environment.parsed_options.model}/predict"  # type: ignore[union-attr]

    @task
    def predict(self) -> None:
        """One image in; the answer back, from a release that this run expects."""
        question = next(self.questions)
        files = {"image": (question.name, question.data, question.media_type)}
        with self.client.post(self.path, files=files, headers=self.headers, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {(response.text or str(response.error))[:200]}")
                return
            try:
                release, outputs, precision = gateway_outputs(response.json())
            except (ModelportError, ValueError, LookupError, TypeError) as error:
                response.failure(f"an answer that nobody can read: {error!r}"[:200])
                return
            problem = golden(self.environment).problem(question, outputs, release, precision)
            if problem:
                response.failure(problem)
