"""What an agent says of its replica: the answer of its ``/state``, which the gateway, `status` and tests read."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from modelport.contract.spec import ClassSpec, Precision
from modelport.contract.tasks import Task


class _Message(BaseModel):
    # Agents and gateways of neighbouring versions meet during an update: what one does not know yet, it ignores.
    model_config = ConfigDict(frozen=True, extra="ignore")


class LoadedRelease(_Message):
    """A release that this replica has loaded, whose golden files it answered within the manifest's tolerances."""

    digest: str = Field(description="Digest of the release's manifest: the version.")
    triton_name: str = Field(description="Name of the release's ensemble in Triton.")
    task: Task = Field(description="What the model answers.")
    classes: tuple[ClassSpec, ...] = Field(description="Label map, in order of ids.")
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="The release's decision thresholds, such as below which `unsure` is said."
    )
    precision: Precision = Field(default=Precision.FP32, description="Arithmetic that this replica runs it with.")


class ModelState(_Message):
    """One model on one replica."""

    desired: str | None = Field(description="Digest that should be served, as far as the agent knows.")
    serving: str | None = Field(description="Digest that the alias answers with.")
    loaded: tuple[LoadedRelease, ...] = Field(description="Every release that can be asked for by name.")
    error: str | None = Field(description="Why the desired release is not served, when it is not.")
    since: datetime = Field(description="When any of the above last changed.")


class ReplicaState(_Message):
    """One replica: an agent and its Triton."""

    replica: str = Field(description="Name of the replica, unique in its pool.")
    ready: bool = Field(
        description="Triton answers, and every model is served, refused for a stated reason, or has no version yet; a "
        "model that was added later is not waited for while others are served. One that serves nothing must have read "
        "that nothing is desired."
    )
    models: dict[str, ModelState] = Field(description="By name of the model.")
    source_error: str | None = Field(
        default=None, description="Why the source of desired versions cannot be read now; what was known goes on."
    )


class Heartbeat(_Message):
    """What a replica last said of one model: the object ``replicas/<model>/<replica>.json``."""

    replica: str
    model: str
    time: datetime = Field(description="When it was written; an old one is of a replica that is gone.")
    state: ModelState
