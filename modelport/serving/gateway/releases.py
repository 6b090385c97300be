"""Which release answers for each model: chosen from what every replica says that it has loaded."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from modelport.serving.state import LoadedRelease, ReplicaState

log = logging.getLogger("modelport.gateway")

_FETCH_SECONDS = 2.0


@dataclass(frozen=True)
class ModelView:
    """One model, as the replicas together see it."""

    active: LoadedRelease | None
    """The release that requests go to; None when no replica has one."""
    desired: str | None
    replicas: int
    """Replicas that have the active release loaded."""
    error: str | None


def choose(states: Sequence[ReplicaState], before: Mapping[str, ModelView]) -> dict[str, ModelView]:
    """The release to send to, by model; `before` is what was chosen last.

    A new release takes over when every ready replica has it. Where replicas have none in common (one was replaced in
    the middle of a change), the most common is taken, and requests go on to a replica that has it.
    """
    models = sorted({model for state in states for model in state.models})
    return {model: _choose(model, states, before.get(model)) for model in models}


def _choose(model: str, states: Sequence[ReplicaState], before: ModelView | None) -> ModelView:
    holders = [state for state in states if model in state.models and state.models[model].loaded]
    holders = [state for state in holders if state.ready] or holders
    views = [state.models[model] for state in holders]
    releases = {release.digest: release for view in views for release in view.loaded}
    counts = Counter(release.digest for view in views for release in view.loaded)
    desired = {view.desired for view in views if view.desired}
    current = before.active.digest if before and before.active else None

    def rank(digest: str) -> tuple[int, bool, bool, bool, str]:
        serving = any(view.serving == digest for view in views)
        # The digest itself comes last, so that several gateways choose alike.
        return (counts[digest], digest in desired, digest == current, serving, digest)

    best = max(releases, key=rank, default=None)
    everyone = [state.models[model] for state in states if model in state.models]
    return ModelView(
        active=None if best is None else releases[best],
        desired=next((view.desired for view in everyone if view.desired), None),
        replicas=0 if best is None else counts[best],
        error=next((view.error for view in everyone if view.error), None),
    )


class ReleaseTable:
    """What the replicas' agents say, looked at all the time."""

    def __init__(self, agent_urls: Sequence[str], interval: float) -> None:
        self._urls = tuple(url.rstrip("/") for url in agent_urls)
        self._interval = interval
        self._client = httpx.AsyncClient(timeout=_FETCH_SECONDS, trust_env=False)
        self._states: dict[str, ReplicaState] = {}
        self._away: set[str] = set()
        self._looking = asyncio.Lock()
        self._looked = 0.0
        self.models: Mapping[str, ModelView] = {}
        """By name; a model stays known when its replicas are away."""

    def view(self, model: str) -> ModelView | None:
        """A model; None when there is none of this name, as far as is known."""
        unheard = self._states.keys() != set(self._urls)
        # A replica that has not answered since this gateway started may have it: absence is not known yet.
        unknown = ModelView(None, None, 0, "a replica has not answered yet") if unheard else None
        return self.models.get(model, unknown)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.refresh()
            except Exception:
                log.exception("unexpected failure while looking at the replicas")
            await asyncio.sleep(self._interval)

    async def refresh(self) -> None:
        """Look now. Many callers at once share one look that starts after they asked."""
        asked = time.monotonic()
        async with self._looking:
            if self._looked > asked:
                return
            self._looked = time.monotonic()
            await asyncio.gather(*(self._look(url) for url in self._urls))
            self.models = choose(list(self._states.values()), self.models)

    async def close(self) -> None:
        """Give up the connections."""
        await self._client.aclose()

    async def _look(self, url: str) -> None:
        try:
            answer = await self._client.get(f"{url}/state")
            answer.raise_for_status()
            self._states[url] = ReplicaState.model_validate_json(answer.content)
            self._away.discard(url)
        except (httpx.HTTPError, ValidationError) as error:
            # A dead agent takes nothing out of Triton: what it said last still holds until Triton says otherwise.
            if url not in self._away:
                log.warning("the agent at %s does not answer (%s); what it said last goes on", url, error)
            self._away.add(url)
