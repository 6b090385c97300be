"""A stack's cluster, used from a person's own machine: finding it, reaching its services, training in it."""

from modelport.remote.session import Session, Wanted, connected
from modelport.remote.stacks import Found, find
from modelport.remote.training import Followed, train
from modelport.remote.uses import NEEDS, Person, Service, Use, own_command, use_of

__all__ = [
    "NEEDS",
    "Followed",
    "Found",
    "Person",
    "Service",
    "Session",
    "Use",
    "Wanted",
    "connected",
    "find",
    "own_command",
    "train",
    "use_of",
]
