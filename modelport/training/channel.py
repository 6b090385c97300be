"""How workers tell the driver what happens: a mailbox in the cluster, since they may be on other machines."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelport.training.events import Event, Stepped

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class _Mailbox:
    """Holds events until the driver takes them; of steps only the newest, so that it stays small."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self._events = [kept for kept in self._events if not isinstance(kept, Stepped)]
        self._events.append(event)

    def take(self) -> list[Event]:
        taken, self._events = self._events, []
        return taken


class Channel:
    """Both ends of the mailbox; may be handed to workers."""

    def __init__(self, mailbox: "ActorHandle[Any]") -> None:
        self._mailbox = mailbox

    @classmethod
    def open(cls) -> "Channel":
        """A new mailbox, on this machine of the connected cluster: workers' machines may be taken away."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox)
        return cls(mailbox.remote())

    def tell(self, event: Event) -> None:
        """Send an event, without waiting."""
        self._mailbox.put.remote(event)

    def tell_surely(self, event: Event, timeout_s: float = 30) -> None:
        """Send an event, and return when it has arrived."""
        import ray

        ray.get(self._mailbox.put.remote(event), timeout=timeout_s)

    def take(self, handle: Callable[[Event], None], timeout_s: float = 30) -> None:
        """Pass every event that has arrived to `handle`, in order."""
        import ray

        events: list[Event] = ray.get(self._mailbox.take.remote(), timeout=timeout_s)
        for event in events:
            handle(event)
