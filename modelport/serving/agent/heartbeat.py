"""What each replica has loaded, written to the object store for `status` and for the retention of releases."""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from modelport.errors import ModelportError
from modelport.objects import ObjectStore
from modelport.serving.agent.metrics import AgentMetrics
from modelport.serving.state import Heartbeat, ModelState

log = logging.getLogger("modelport.agent")


class Heart:
    """Writes a replica's heartbeats, when something changed and every `interval` seconds.

    It has a thread of its own: a store that hangs must not hold up what Triton is told.
    """

    def __init__(
        self,
        replica: str,
        store: ObjectStore,
        states: Callable[[], Mapping[str, ModelState]],
        metrics: AgentMetrics,
        interval: float = 30.0,
    ) -> None:
        self._replica = replica
        self._store = store
        self._states = states
        self._metrics = metrics
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End, waiting at most `timeout` seconds."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        written: dict[str, ModelState] = {}
        away = False
        ticks = 0
        while not self._stop.wait(1.0):
            ticks += 1
            if ticks >= self._interval:
                written, ticks = {}, 0
            for model, state in self._states().items():
                if written.get(model) == state:
                    continue
                try:
                    self.beat(model, state)
                    written[model], away = state, False
                except ModelportError as error:
                    self._metrics.heartbeat_failures.inc()
                    if not away:
                        log.warning("heartbeats cannot be written: %s", error.message)
                    away = True

    def beat(self, model: str, state: ModelState) -> None:
        """Write one heartbeat."""
        beat = Heartbeat(replica=self._replica, model=model, time=datetime.now(UTC), state=state)
        self._store.put(f"replicas/{model}/{self._replica}.json", beat.model_dump_json().encode())
