"""Which release answers for each model, and where: chosen from what every replica says that it has loaded."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from modelport.errors import Unavailable
from modelport.serving.gateway.replicas import Place, Replica, Resolve, resolve
from modelport.serving.state import LoadedRelease, ReplicaState

log = logging.getLogger("modelport.gateway")

_FETCH_SECONDS = 2.0
_REMEMBERED_SECONDS = 600.0
"""For which a model stays known whose last replica is gone: it is away, not unheard of."""


@dataclass(frozen=True)
class Heard:
    """What a replica said last."""

    triton: str
    """host:port of its Triton's gRPC."""
    state: ReplicaState


@dataclass(frozen=True)
class Loaded:
    """A release, and every Triton that has it loaded."""

    release: LoadedRelease
    at: Mapping[str, LoadedRelease]
    """By host:port, what the agent there says of it: replicas may run it with another arithmetic."""


@dataclass(frozen=True)
class ModelView:
    """One model, as the replicas together see it."""

    active: LoadedRelease | None
    """The release that requests go to; None when no replica has one."""
    desired: str | None
    replicas: int
    """Replicas that have the active release loaded."""
    error: str | None
    at: tuple[str, ...] = ()
    """host:port of every Triton that has the active release loaded: requests go to these and to no other."""
    loaded: tuple[Loaded, ...] = ()
    """Every release that can be asked for, the active one first."""

    def asked_for(self, beginning: str | None) -> list[Loaded]:
        """The releases whose digest begins so; of None the active one."""
        if beginning is None:
            return [loaded for loaded in self.loaded if loaded.release == self.active]
        return [loaded for loaded in self.loaded if loaded.release.digest.startswith(beginning)]


def choose(heard: Sequence[Heard], before: Mapping[str, ModelView]) -> dict[str, ModelView]:
    """The release to send to, by model; `before` is what was chosen last.

    Each model is judged by the replicas that serve it: those of other pools do not count, nor does what else a replica
    serves. A new release takes over when every one of them has it. Where they have none in common, the desired one is
    taken if all that can get it have it: a replica that cannot read what is desired, or cannot load it, may hold a
    release that was taken back, and is not waited for. While one is on its way, the most common release is taken.
    """
    models = sorted({model for replica in heard for model in replica.state.models})
    return {model: _choose(model, heard, before.get(model)) for model in models}


def _choose(model: str, heard: Sequence[Heard], before: ModelView | None) -> ModelView:
    # Those that cannot read what is desired come last: what they say is desired was so once.
    knowing = sorted((r for r in heard if model in r.state.models), key=lambda r: r.state.source_error is not None)
    holders = [replica for replica in knowing if replica.state.models[model].loaded]
    # A replica that is not ready for another model's sake counts all the same if it serves this one.
    holders = [r for r in holders if r.state.ready or r.state.models[model].serving] or holders
    views = [replica.state.models[model] for replica in holders]
    releases = {release.digest: release for view in views for release in view.loaded}
    counts = Counter(release.digest for view in views for release in view.loaded)
    reading = [replica.state.models[model] for replica in holders if replica.state.source_error is None]
    desired = {view.desired for view in reading or views if view.desired}
    on_their_way = [{release.digest for release in view.loaded} for view in reading if view.error is None]
    current = before.active.digest if before and before.active else None

    def rank(digest: str) -> tuple[bool, bool, int, bool, bool, bool, str]:
        wanted = digest in desired
        arrived = wanted and all(digest in loaded for loaded in on_their_way)
        serving = any(view.serving == digest for view in views)
        # The digest itself comes last, so that several gateways choose alike.
        return (counts[digest] == len(views), arrived, counts[digest], wanted, digest == current, serving, digest)

    best = max(releases, key=rank, default=None)
    everyone = [replica.state.models[model] for replica in knowing]
    loaded = _loaded(model, knowing)
    chosen = None if best is None else loaded.pop(best)
    return ModelView(
        active=None if chosen is None else chosen.release,
        desired=next((view.desired for view in everyone if view.desired), None),
        replicas=0 if best is None else counts[best],
        error=next((view.error for view in everyone if view.error), None),
        at=() if chosen is None else tuple(chosen.at),
        loaded=(*([] if chosen is None else [chosen]), *(loaded[digest] for digest in sorted(loaded))),
    )


def _loaded(model: str, replicas: Sequence[Heard]) -> dict[str, Loaded]:
    """Every release that a replica has loaded, by digest."""
    places: dict[str, dict[str, LoadedRelease]] = {}
    for replica in replicas:
        for release in replica.state.models[model].loaded:
            places.setdefault(release.digest, {})[replica.triton] = release
    return {digest: Loaded(next(iter(at.values())), at) for digest, at in places.items()}


def remembered(
    chosen: Mapping[str, ModelView], before: Mapping[str, ModelView], seen: Mapping[str, float], now: float
) -> dict[str, ModelView]:
    """What was chosen, and the models of before that no replica tells of any more, for a while.

    Args:
        seen: when each model was told of last, in seconds of the clock that `now` is of.
    """
    gone = {
        model: ModelView(None, view.desired, 0, "none of its replicas is there now")
        for model, view in before.items()
        if model not in chosen and now - seen[model] < _REMEMBERED_SECONDS
    }
    return {**chosen, **gone}


class ReleaseTable:
    """Where the replicas are and what their agents say, looked at all the time."""

    def __init__(
        self,
        places: Sequence[Place],
        interval: float,
        keep: Callable[[Collection[str]], Awaitable[None]],
        resolve: Resolve = resolve,
    ) -> None:
        """Look at `places` every `interval` seconds; `keep` is told each time which Tritons there are."""
        self._interval = interval
        self._keep = keep
        self._resolve = resolve
        self._client = httpx.AsyncClient(timeout=_FETCH_SECONDS, trust_env=False)
        self._replicas: dict[Place, list[Replica]] = {place: place.replicas() for place in places}
        self._unresolved: dict[Place, str] = {}
        self._states: dict[Replica, ReplicaState] = {}
        self._seen: dict[str, float] = {}
        self._away: set[Replica] = set()
        self._looking = asyncio.Lock()
        self._looked = 0.0
        self.models: Mapping[str, ModelView] = {}
        """By name; a model stays known when its replicas are away."""

    def view(self, model: str) -> ModelView | None:
        """A model; None when there is none of this name, as far as is known."""
        return self.models.get(model) or self._unheard()

    @property
    def heard_all(self) -> bool:
        """Whether every replica has said what it has: before that, absence is not known."""
        there = self._there()
        return bool(there) and self._states.keys() == set(there)

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
            await asyncio.gather(*(self._find(place) for place in self._replicas))
            there = self._there()
            self._states = {replica: state for replica, state in self._states.items() if replica in there}
            self._away &= set(there)
            await asyncio.gather(*(self._look(replica) for replica in there))
            heard = [Heard(r.triton, self._states[r]) for r in there if r in self._states]
            chosen = choose(heard, self.models)
            now = time.monotonic()
            self._seen |= dict.fromkeys(chosen, now)
            self.models = remembered(chosen, self.models, self._seen, now)
            await self._keep({replica.triton for replica in there})

    async def close(self) -> None:
        """Give up the connections."""
        await self._client.aclose()

    def _there(self) -> list[Replica]:
        return list(dict.fromkeys(replica for replicas in self._replicas.values() for replica in replicas))

    def _unheard(self) -> ModelView | None:
        """What is said of an unknown model as long as some replica may have it: absence is not known yet."""
        if not self._there():
            names = ", ".join(sorted({place.name or place.agent for place in self._replicas}))
            reason = next(iter(self._unresolved.values()), f"{names} has no address")
            return ModelView(None, None, 0, f"there is no replica: {reason}")
        if self._states.keys() != set(self._there()):
            return ModelView(None, None, 0, "a replica has not answered yet")
        return None

    async def _find(self, place: Place) -> None:
        if place.name is None:
            return
        try:
            now = place.replicas(await self._resolve(place.name))
        except Unavailable as error:
            # The name service being away takes no replica away.
            if place not in self._unresolved:
                log.warning("%s; the replicas that were there last go on", error.message)
            self._unresolved[place] = error.message
            return
        self._unresolved.pop(place, None)
        before = self._replicas[place]
        if now != before:
            self._replicas[place] = now
            log.info("%s has %d replicas now, it had %d", place.name, len(now), len(before))

    async def _look(self, replica: Replica) -> None:
        try:
            answer = await self._client.get(f"{replica.agent}/state")
            answer.raise_for_status()
            self._states[replica] = ReplicaState.model_validate_json(answer.content)
            self._away.discard(replica)
        except (httpx.HTTPError, ValidationError) as error:
            # A dead agent takes nothing out of Triton: what it said last still holds until Triton says otherwise. What
            # is desired now it does not know.
            if replica not in self._away:
                log.warning("the agent at %s does not answer (%s); what it said last goes on", replica.agent, error)
            self._away.add(replica)
            if (said := self._states.get(replica)) is not None:
                self._states[replica] = said.model_copy(update={"source_error": "the agent does not answer"})
