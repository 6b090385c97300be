"""What is to be served of a model: a release, and in which arithmetic."""

from dataclasses import dataclass

from modelport.contract import Precision


@dataclass(frozen=True)
class Version:
    """A release to serve. Another precision of the same release is another version: it is brought up beside it."""

    digest: str
    precision: Precision | None = None
    """Arithmetic of the network step; None takes what the release's own ``model.yaml`` says."""

    def __str__(self) -> str:
        return self.digest[:12] if self.precision is None else f"{self.digest[:12]} in {self.precision}"
