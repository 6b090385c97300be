"""Users that speak to Triton directly over gRPC, with the client that Triton's users have."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from grpc.experimental.gevent import init_gevent
from locust import User, constant, events, task
from session import TIMEOUT_S, ask_triton, golden, questions
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from modelport.loadtest import Question

# Locust's users are greenlets: without this, one user's call would block all the others. Before any channel exists.
init_gevent()


@events.quit.add_listener
def _end(exit_code: int, **_: Any) -> None:
    """End at once: gRPC's threads now and then keep Python from ending, and everything has been written by now."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


class TritonGrpcUser(User):
    """Sends golden images to the model's alias."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Prepare what every request needs."""
        self.questions = questions(self.environment)
        self.outputs = [InferRequestedOutput(name) for name in golden(self.environment).output_names]
        self.client = InferenceServerClient(str(self.environment.host).removeprefix("grpc://"))

    def on_stop(self) -> None:
        """Close the connection."""
        self.client.close()

    @task
    def infer(self) -> None:
        """One image in; what the model's task promises back."""
        question = next(self.questions)
        ask_triton(self.environment, "gRPC", question, lambda: self._infer(question), (InferenceServerException,))

    def _infer(self, question: Question) -> Mapping[str, np.ndarray]:
        image = InferInput("image", list(question.image.shape), "UINT8")
        image.set_data_from_numpy(question.image)
        answer = self.client.infer(
            self.environment.parsed_options.model,  # type: ignore[union-attr]
            [image],
            outputs=self.outputs,
            client_timeout=TIMEOUT_S,
        )
        return {name: answer.as_numpy(name) for name in golden(self.environment).output_names}
