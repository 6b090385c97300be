"""Users that speak to Triton directly over HTTP, with the client that Triton's users have."""

from collections.abc import Mapping

import numpy as np
from locust import User, constant, task
from session import TIMEOUT_S, ask_triton, golden, questions
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from modelport.loadtest import Question


class TritonHttpUser(User):
    """Sends golden images to the model's alias; tensors travel as bytes, not as JSON."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Prepare what every request needs."""
        self.questions = questions(self.environment)
        self.outputs = [InferRequestedOutput(name) for name in golden(self.environment).output_names]
        self.client = InferenceServerClient(
            str(self.environment.host).removeprefix("http://"), connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S
        )

    def on_stop(self) -> None:
        """Close the connection; Triton would wait for it when it shuts down."""
        self.client.close()

    @task
    def infer(self) -> None:
        """One image in; what the model's task promises back."""
        question = next(self.questions)
        ask_triton(
            self.environment, "HTTP", question, lambda: self._infer(question), (InferenceServerException, OSError)
        )

    def _infer(self, question: Question) -> Mapping[str, np.ndarray]:
        image = InferInput("image", list(question.image.shape), "UINT8")
        image.set_data_from_numpy(question.image)
        answer = self.client.infer(
            self.environment.parsed_options.model,  # type: ignore[union-attr]
            [image],
            outputs=self.outputs,
        )
        return {name: answer.as_numpy(name) for name in golden(self.environment).output_names}
