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
from modelport.serving.agent.bringup import BadRelease, load, prepare, replay
from modelport.serving.agent.metrics import AgentMetrics
from modelport.serving.agent.plan import Action, Bring, Forget, Memory, Remove, Seen, Switch, Verified, plan, surplus
from modelport.serving.agent.releases import ReleaseCache
from modelport.serving.agent.repository import Repository
from modelport.serving.agent.triton import TritonServer
from modelport.serving.agent.version import Version
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
        self._previous: Version | None = None
        self._up: dict[Version, _Up] = {}
        self._tries: dict[Version, int] = {}
        self._desired: Version | None = None
        self._told = False
        """Whether the source has said anything: that nothing is desired is known only then."""
        self._pursued: Version | None = None
        self._outage: str | None = "the agent is starting"
        self._away = False
        self._troubles: dict[Version, str] = {}
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

    def want(self, version: Version | None) -> None:
        """Set the desired version, from any thread."""
        if version != self._desired or not self._told:
            self._desired, self._told = version, True
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
            if isinstance(action, Forget | Remove):
                return  # a Triton that keeps losing a release, or will not let one go, is not asked without a pause

    def _follow_desired(self) -> None:
        desired = self._desired
        if desired == self._pursued:
            return
        log.info("%s: desired release is %s", self.model, desired or "none")
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
            case Forget(versions):
                log.warning("%s: Triton lost %s; loading again", self.model, ", ".join(sorted(map(str, versions))))
                kept = {version: up for version, up in self._memory.verified.items() if version not in versions}
                self._memory = replace(self._memory, verified=kept)
            case Bring(version):
                self._bring(version)
            case Switch(version):
                self._switch(version)
            case Remove(names):
                self._remove(names)

    def _bring(self, version: Version) -> None:
        log.info("%s: bringing up release %s", self.model, version)
        started = time.monotonic()
        name: str | None = None
        try:
            release = self._obtain(version)
            bringup = prepare(release, self.model, precision=version.precision, gpu=self._gpu)
            name = bringup.rendered.name
            load(bringup, self._repository, self._triton)
            replay(bringup, self._triton)
        except BadRelease as error:
            self._refuse(version, error.kind, error.message)
        except TritonRefused as error:
            self._retry(version, "load", error.message, tries=_LOAD_TRIES)
        except ModelportError as error:
            self._retry(version, "store" if name is None else "triton", error.message)
        except OSError as error:
            self._retry(version, "disk", f"cannot write release {version}: {error}")
        except Exception as error:
            log.exception("%s: unexpected failure with release %s", self.model, version)
            self._retry(version, "unexpected", f"unexpected failure with release {version}: {error!r}")
        else:
            self._tries.pop(version, None)
            self._troubles.pop(version, None)
            self._up[version] = _Up(
                bringup.rendered,
                LoadedRelease(
                    digest=version.digest,
                    triton_name=name,
                    task=release.manifest.task,
                    classes=release.manifest.classes,
                    thresholds=release.manifest.thresholds,
                    precision=bringup.precision,
                ),
            )
            verified = Verified(name, frozenset(bringup.rendered.configs))
            self._memory = replace(self._memory, verified={**self._memory.verified, version: verified})
            seconds = time.monotonic() - started
            self._metrics.bring_seconds.labels(self.model).observe(seconds)
            log.info("%s: release %s is loaded and verified (%.1f s)", self.model, version, seconds)
            return
        if name is not None:
            self._take_down(name)

    def _obtain(self, version: Version) -> Release:
        try:
            return self._cache.obtain(version.digest)
        except BadInput as error:
            raise BadRelease("digest", f"release {version} is corrupted: {error}") from None

    def _take_down(self, name: str) -> None:
        """Unload what a failed try has left; steps that the serving release shares stay."""
        if any(name in release.needs for release in self._memory.verified.values()):
            return  # the same under another version: asked for in the precision that the release has anyway
        try:
            self._triton.unload(name, dependents=True)
        except ModelportError as error:
            log.warning("%s: %s", self.model, error.message)

    def _switch(self, version: Version) -> None:
        """Point the alias at a release that has answered; when Triton will not, put back what was there."""
        before = self._repository.alias()
        try:
            self._repository.write_alias(self._up[version].rendered.alias_config)
            try:
                self._triton.load(self.model)
            except TritonRefused:
                if before is not None:
                    self._repository.write_alias(before)
                    self._triton.load(self.model)
                raise
            if version != self._memory.serving:
                self._previous = self._memory.serving
                self._cache.note_serving(version)
        except ModelportError as error:
            self._retry(version, "triton", f"the alias cannot be switched: {error.message}")
        except OSError as error:
            self._retry(version, "disk", f"the alias cannot be written: {error}")
        else:
            self._tries.pop(version, None)
            self._troubles.pop(version, None)
            self._memory = replace(self._memory, serving=version, aliased=version)
            log.info("%s: serving release %s", self.model, version)

    def _remove(self, names: frozenset[str]) -> None:
        kept = {each: release for each, release in self._memory.verified.items() if not release.needs & names}
        self._memory = replace(self._memory, verified=kept)
        # Gateways read what is loaded from the state: it has to say so before the release goes.
        self._publish()
        gone: list[str] = []
        for name in _releases_first(names):
            try:
                self._triton.unload(name)
                self._repository.remove(name)
            except (ModelportError, OSError) as error:
                log.warning("%s: cannot remove %s: %s", self.model, name, error)
                self._metrics.failures.labels(self.model, "remove").inc()
                # Nobody waits for it: it is tried again after another grace, not at once and without end.
                later = {**self._memory.surplus_since, name: time.monotonic()}
                self._memory = replace(self._memory, surplus_since=later)
            else:
                gone.append(name)
        wanted = (self._memory.serving, self._previous, self._pursued)
        self._cache.keep(frozenset(each.digest for each in wanted if each is not None))
        if gone:
            log.info("%s: removed %s", self.model, ", ".join(sorted(gone)))

    def _refuse(self, version: Version, kind: str, message: str) -> None:
        log.error("%s: release %s is refused: %s", self.model, version, message)
        self._metrics.failures.labels(self.model, kind).inc()
        self._memory = replace(self._memory, refused={**self._memory.refused, version: message})

    def _retry(self, version: Version, kind: str, message: str, tries: int | None = None) -> None:
        count = self._tries[version] = self._tries.get(version, 0) + 1
        if tries is not None and count >= tries:
            self._refuse(version, kind, message)
            return
        pause = min(_FIRST_PAUSE * 2 ** (count - 1), _LONGEST_PAUSE)
        log.warning("%s: %s; trying again in %.0f s", self.model, message, pause)
        self._metrics.failures.labels(self.model, kind).inc()
        self._troubles[version] = message
        later = {**self._memory.not_before, version: time.monotonic() + pause}
        self._memory = replace(self._memory, not_before=later)

    def _suffer(self, kind: str, message: str) -> None:
        """Note what keeps everything from working."""
        if message != self._outage:
            log.error("%s: %s", self.model, message)
            self._metrics.failures.labels(self.model, kind).inc()
        self._outage = message
        self._publish()

    def _trouble(self, version: Version | None) -> str | None:
        return None if version is None else self._memory.refused.get(version) or self._troubles.get(version)

    def _publish(self) -> None:
        memory = self._memory
        self._up = {version: up for version, up in self._up.items() if version in memory.verified}
        serving = memory.aliased if memory.aliased in memory.verified and not self._away else None
        error = self._outage or self._trouble(self._pursued)
        if serving is None:
            error = error or self._trouble(memory.serving)
        content = ModelState(
            desired=_digest(self._pursued),
            serving=_digest(serving),
            loaded=self._loaded(serving),
            error=error,
            since=self._state.since,
        )
        if content != self._state:
            self._metrics.show_serving(self.model, self._state.serving, content.serving)
            self._state = content.model_copy(update={"since": datetime.now(UTC)})
        hopeless = all(each is None or each in memory.refused for each in (memory.serving, self._pursued))
        known = self._pursued is not None or self._told
        self._settled = serving is not None or (known and hopeless and self._outage is None)
        self._newcomer = self._newcomer and not self._settled
        self._metrics.converged.labels(self.model).set(serving is not None and serving == self._pursued)

    def _loaded(self, serving: Version | None) -> tuple[LoadedRelease, ...]:
        """One entry for each digest: of a release that is loaded in two precisions, the one that serves."""
        last = sorted(self._up.items(), key=lambda item: item[0] == serving)
        return tuple({up.loaded.digest: up.loaded for _, up in last}.values())


def _releases_first(names: Collection[str]) -> list[str]:
    """Triton names, releases before the steps that they use."""
    return sorted(names, key=lambda name: name.count("."))


def _digest(version: Version | None) -> str | None:
    return None if version is None else version.digest
