"""One thread per model that brings Triton to the desired version: it observes, plans (see `plan`) and acts."""

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from modelport.contract import RenderedRelease
from modelport.errors import BadInput, ModelportError, Unavailable
from modelport.release import Release
from modelport.serving.agent.bringup import BadRelease, load, rendered, replay
from modelport.serving.agent.metrics import AgentMetrics
from modelport.serving.agent.plan import Action, Bring, Forget, Memory, Remove, Seen, Switch, Verified, plan, surplus
from modelport.serving.agent.releases import ReleaseCache
from modelport.serving.agent.repository import Repository
from modelport.serving.agent.triton import TritonServer
from modelport.serving.client import TritonRefused
from modelport.serving.state import LoadedRelease, ModelState

log = logging.getLogger("modelport.agent")

_LOAD_TRIES = 3
"""A load may fail for want of memory and pass later; after this many it is the release's fault."""
_STOP_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@dataclass(frozen=True)
class Pace:
    """How often and how patiently a worker acts, in seconds."""

    interval: float = 1.0
    """Between looks at Triton."""
    grace: float = 10.0
    """For which a superseded release stays loaded, so that gateways have moved on."""


@dataclass(frozen=True)
class _Up:
    """What is remembered of a release that is up."""

    rendered: RenderedRelease
    loaded: LoadedRelease


class ModelWorker:
    """Makes one Triton serve the desired version of one model."""

    def __init__(
        self,
        model: str,
        *,
        triton: TritonServer,
        repository: Repository,
        cache: ReleaseCache,
        metrics: AgentMetrics,
        pace: Pace,
        gpu: bool,
        newcomer: bool = False,
    ) -> None:
        """Nothing happens before `start`; a `newcomer` joins a replica that serves others already."""
        self.model = model
        self._triton = triton
        self._repository = repository
        self._cache = cache
        self._metrics = metrics
        self._pace = pace
        self._gpu = gpu
        self._newcomer = newcomer
        self._memory = Memory(serving=cache.serving())
        self._previous: str | None = None
        self._up: dict[str, _Up] = {}
        self._tries: dict[str, int] = {}
        self._desired: str | None = None
        self._told = False
        """Whether the source has said anything: that nothing is desired is known only then."""
        self._pursued: str | None = None
        self._outage: str | None = "the agent is starting"
        self._away = False
        self._troubles: dict[str, str] = {}
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"agent-{model}", daemon=True)
        self._state = ModelState(desired=None, serving=None, loaded=(), error=self._outage, since=datetime.now(UTC))
        self._settled = False

    @property
    def state(self) -> ModelState:
        """What is so now; safe to read from any thread."""
        return self._state

    @property
    def holds_up(self) -> bool:
        """Whether the replica should wait with being ready.

        Not when waiting would change nothing: a release serves, the only one is refused, or none is desired. And not
        for a newcomer's first release: the other models of the replica stay in traffic meanwhile.
        """
        return not (self._settled or self._newcomer)

    @property
    def stopped(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    def want(self, digest: str | None) -> None:
        """Set the desired version, from any thread."""
        if digest != self._desired or not self._told:
            self._desired, self._told = digest, True
            self._wake.set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End after the action under way, waiting at most `timeout` seconds. What is loaded stays loaded."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)

    def retire(self, timeout: float = _STOP_SECONDS) -> None:
        """End, and unload and delete everything of this model, the alias first. May be called again when it failed.

        Raises:
            Unavailable: Triton is away, or an action under way did not end in time.
        """
        self.stop(timeout)
        if self._thread.is_alive():
            raise Unavailable(f"{self.model} is still being worked on, and goes when that has ended")
        ready = self._triton.ready()
        if self.model in ready:
            self._triton.unload(self.model)
        owned = {name for name in ready if self._repository.owns(name)}
        for name in _releases_first(owned):
            self._triton.unload(name)
        try:
            self._repository.remove_all()
            self._cache.remove()
        except OSError as error:
            raise Unavailable(f"what {self.model} has left cannot be removed: {error}") from None
        self._metrics.forget(self.model, self._state.serving)
        log.info("%s: not to be served here any more; unloaded", self.model)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._converge()
            except Exception as error:
                # This thread must outlive any surprise: without it the model would never change again, unseen.
                log.exception("%s: unexpected failure", self.model)
                self._suffer("unexpected", f"unexpected failure: {error!r}")
            self._wake.wait(self._pace.interval)
            self._wake.clear()

    def _converge(self) -> None:
        """Act until there is nothing to do now."""
        while not self._stop.is_set():
            self._follow_desired()
            try:
                seen = self._look()
            except ModelportError as error:
                # What it had may still be there: it is not taken from gateways because of one slow answer. If it is
                # gone, the next look shows that.
                self._memory = replace(self._memory, surplus_since={})
                self._away = True
                self._suffer("triton", error.message)
                return
            self._away, self._outage = False, None
            now = time.monotonic()
            since = self._memory.surplus_since
            unneeded = {name: since.get(name, now) for name in surplus(self._memory, seen)}
            self._memory = replace(self._memory, surplus_since=unneeded)
            action = plan(self._memory, seen, now, self._pace.grace)
            if action is None:
                self._publish()
                return
            self._act(action)
            self._publish()
            if isinstance(action, Forget):
                return  # a Triton that keeps losing a release is not asked again without a pause

    def _follow_desired(self) -> None:
        desired = self._desired
        if desired == self._pursued:
            return
        log.info("%s: desired release is %s", self.model, _short(desired))
        self._pursued = desired
        # A refused release gets another chance only when something else was desired in between.
        self._memory = replace(self._memory, refused={}, not_before={})
        self._tries.clear()
        self._troubles.clear()
        self._publish()

    def _look(self) -> Seen:
        ready = self._triton.ready()
        return Seen(
            desired=self._pursued,
            alias_ready=self.model in ready,
            ready=frozenset(name for name in ready if self._repository.owns(name)),
            present=self._repository.names(),
        )

    def _act(self, action: Action) -> None:
        match action:
            case Forget(digests):
                log.warning("%s: Triton lost %s; loading again", self.model, ", ".join(map(_short, sorted(digests))))
                kept = {digest: up for digest, up in self._memory.verified.items() if digest not in digests}
                self._memory = replace(self._memory, verified=kept)
            case Bring(digest):
                self._bring(digest)
            case Switch(digest):
                self._switch(digest)
            case Remove(names):
                self._remove(names)

    def _bring(self, digest: str) -> None:
        log.info("%s: bringing up release %s", self.model, _short(digest))
        started = time.monotonic()
        name: str | None = None
        try:
            release = self._obtain(digest)
            to_load = rendered(release, self.model, gpu=self._gpu)
            name = to_load.name
            load(release, to_load, self._repository, self._triton)
            replay(release, name, self._triton)
        except BadRelease as error:
            self._refuse(digest, error.kind, error.message)
        except TritonRefused as error:
            self._retry(digest, "load", error.message, tries=_LOAD_TRIES)
        except ModelportError as error:
            self._retry(digest, "store" if name is None else "triton", error.message)
        except OSError as error:
            self._retry(digest, "disk", f"cannot write release {_short(digest)}: {error}")
        except Exception as error:
            log.exception("%s: unexpected failure with release %s", self.model, _short(digest))
            self._retry(digest, "unexpected", f"unexpected failure with release {_short(digest)}: {error!r}")
        else:
            self._tries.pop(digest, None)
            self._troubles.pop(digest, None)
            self._up[digest] = _Up(
                to_load,
                LoadedRelease(
                    digest=digest, triton_name=name, task=release.manifest.task, classes=release.manifest.classes
                ),
            )
            verified = Verified(name, frozenset(to_load.configs))
            self._memory = replace(self._memory, verified={**self._memory.verified, digest: verified})
            seconds = time.monotonic() - started
            self._metrics.bring_seconds.labels(self.model).observe(seconds)
            log.info("%s: release %s is loaded and verified (%.1f s)", self.model, _short(digest), seconds)
            return
        if name is not None:
            self._take_down(name)

    def _obtain(self, digest: str) -> Release:
        try:
            return self._cache.obtain(digest)
        except BadInput as error:
            raise BadRelease("digest", f"release {_short(digest)} is corrupted: {error}") from None

    def _take_down(self, name: str) -> None:
        """Unload what a failed try has left; steps that the serving release shares stay."""
        try:
            self._triton.unload(name, dependents=True)
        except ModelportError as error:
            log.warning("%s: %s", self.model, error.message)

    def _switch(self, digest: str) -> None:
        """Point the alias at a release that has answered; when Triton will not, put back what was there."""
        before = self._repository.alias()
        try:
            self._repository.write_alias(self._up[digest].rendered.alias_config)
            try:
                self._triton.load(self.model)
            except TritonRefused:
                if before is not None:
                    self._repository.write_alias(before)
                    self._triton.load(self.model)
                raise
            if digest != self._memory.serving:
                self._previous = self._memory.serving
                self._cache.note_serving(digest)
        except ModelportError as error:
            self._retry(digest, "triton", f"the alias cannot be switched: {error.message}")
        except OSError as error:
            self._retry(digest, "disk", f"the alias cannot be written: {error}")
        else:
            self._tries.pop(digest, None)
            self._troubles.pop(digest, None)
            self._memory = replace(self._memory, serving=digest, aliased=digest)
            log.info("%s: serving release %s", self.model, _short(digest))

    def _remove(self, names: frozenset[str]) -> None:
        kept = {d: release for d, release in self._memory.verified.items() if not release.needs & names}
        self._memory = replace(self._memory, verified=kept)
        # Gateways read what is loaded from the state: it has to say so before the release goes.
        self._publish()
        for name in _releases_first(names):
            try:
                self._triton.unload(name)
                self._repository.remove(name)
            except (ModelportError, OSError) as error:
                log.warning("%s: cannot remove %s: %s", self.model, name, error)
        wanted = (self._memory.serving, self._previous, self._pursued)
        self._cache.keep(frozenset(digest for digest in wanted if digest is not None))
        log.info("%s: removed %s", self.model, ", ".join(sorted(names)))

    def _refuse(self, digest: str, kind: str, message: str) -> None:
        log.error("%s: release %s is refused: %s", self.model, _short(digest), message)
        self._metrics.failures.labels(self.model, kind).inc()
        self._memory = replace(self._memory, refused={**self._memory.refused, digest: message})

    def _retry(self, digest: str, kind: str, message: str, tries: int | None = None) -> None:
        count = self._tries[digest] = self._tries.get(digest, 0) + 1
        if tries is not None and count >= tries:
            self._refuse(digest, kind, message)
            return
        pause = min(_FIRST_PAUSE * 2 ** (count - 1), _LONGEST_PAUSE)
        log.warning("%s: %s; trying again in %.0f s", self.model, message, pause)
        self._metrics.failures.labels(self.model, kind).inc()
        self._troubles[digest] = message
        later = {**self._memory.not_before, digest: time.monotonic() + pause}
        self._memory = replace(self._memory, not_before=later)

    def _suffer(self, kind: str, message: str) -> None:
        """Note what keeps everything from working."""
        if message != self._outage:
            log.error("%s: %s", self.model, message)
            self._metrics.failures.labels(self.model, kind).inc()
        self._outage = message
        self._publish()

    def _trouble(self, digest: str | None) -> str | None:
        return None if digest is None else self._memory.refused.get(digest) or self._troubles.get(digest)

    def _publish(self) -> None:
        memory = self._memory
        self._up = {digest: up for digest, up in self._up.items() if digest in memory.verified}
        serving = memory.aliased if memory.aliased in memory.verified and not self._away else None
        error = self._outage or self._trouble(self._pursued)
        if serving is None:
            error = error or self._trouble(memory.serving)
        content = ModelState(
            desired=self._pursued,
            serving=serving,
            loaded=tuple(up.loaded for up in self._up.values()),
            error=error,
            since=self._state.since,
        )
        if content != self._state:
            self._metrics.show_serving(self.model, self._state.serving, serving)
            self._state = content.model_copy(update={"since": datetime.now(UTC)})
        hopeless = all(digest is None or digest in memory.refused for digest in (memory.serving, self._pursued))
        known = self._pursued is not None or self._told
        self._settled = serving is not None or (known and hopeless and self._outage is None)
        self._newcomer = self._newcomer and not self._settled
        self._metrics.converged.labels(self.model).set(serving is not None and serving == self._pursued)


def _releases_first(names: Collection[str]) -> list[str]:
    """Triton names, releases before the steps that they use."""
    return sorted(names, key=lambda name: name.count("."))


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
