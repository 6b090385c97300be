"""What serving replicas say of themselves: their agents when they answer, their heartbeats on the store when not."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from modelport.objects import ObjectStore
from modelport.promotion.people import Warn

_TIMEOUT_S = 3.0


class _Message(BaseModel):
    # Serving is a later room: of its messages, only what is needed here is read.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Loaded(_Message):
    digest: str


class _State(_Message):
    desired: str | None = None
    serving: str | None = None
    loaded: tuple[_Loaded, ...] = ()
    error: str | None = None


class _AgentAnswer(_Message):
    replica: str
    ready: bool
    models: dict[str, _State]


class _Heartbeat(_Message):
    replica: str
    time: datetime
    state: _State


@dataclass(frozen=True)
class Replica:
    """One replica, as far as one model is concerned."""

    name: str
    serving: str | None
    """Digest that it answers with."""
    loaded: tuple[str, ...]
    """Digests that it can be asked for."""
    error: str | None
    """Why it does not serve the desired release."""
    ready: bool | None
    """None where its agent was not reached."""
    seen: datetime

    def age_s(self, now: datetime) -> float:
        """Seconds since it was heard of."""
        return (now - self.seen).total_seconds()


def heartbeats(store: ObjectStore, model: str, warn: Warn) -> list[Replica]:
    """Replicas that ever wrote a heartbeat for a model; the caller judges by their age which still run."""
    found: list[Replica] = []
    for row in store.list(f"replicas/{model}/"):
        try:
            beat = _Heartbeat.model_validate_json(store.get(row.key))
        except ValidationError as error:
            warn(f"s3://{store.bucket}/{row.key} is no heartbeat ({error.error_count()} problems)")
            continue
        found.append(_replica(beat.replica, beat.state, None, beat.time))
    return found


def agents(urls: Sequence[str], model: str, warn: Warn) -> list[Replica]:
    """Replicas whose agents answer now."""
    import httpx

    found: list[Replica] = []
    # An agent is on this machine or in this cluster: a proxy that the environment names is not the way to it.
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
        for url in urls:
            try:
                answer = _AgentAnswer.model_validate_json(client.get(f"{url}/state").raise_for_status().content)
            except (httpx.HTTPError, ValidationError) as error:
                warn(f"the agent at {url} does not answer: {error}")
                continue
            state = answer.models.get(model, _State())
            found.append(_replica(answer.replica, state, answer.ready, datetime.now(UTC)))
    return found


def _replica(name: str, state: _State, ready: bool | None, seen: datetime) -> Replica:
    return Replica(name, state.serving, tuple(row.digest for row in state.loaded), state.error, ready, seen)
