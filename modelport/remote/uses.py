"""What each command needs of a stack, and the connection that holds that and nothing more. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath

from modelport.connection import Cluster, Connection, Role, S3Key


class Person(StrEnum):
    """Roles of people in a stack: each has a key of its own at the object store, and a login of its own at MLflow."""

    READER = "reader"
    """Reads releases, the promotion log and staging; writes nothing."""
    TRAINER = "trainer"
    PROMOTER = "promoter"


class Service(StrEnum):
    """What is reached through the API server."""

    S3 = "s3"
    MLFLOW = "mlflow"
    GATEWAY = "gateway"


class Use(StrEnum):
    """Kinds of commands, by what they need."""

    LOOK = "look"
    ASK = "ask"
    LOAD = "load"
    TRAIN = "train"
    EXPORT = "export"
    DECIDE = "decide"
    PUSH = "push"
    LIST = "list"


@dataclass(frozen=True)
class Need:
    """What a kind of commands needs."""

    people: tuple[Person, ...] = ()
    """Whose credentials do, those with the fewest rights first; none needs none."""
    asks: tuple[Role, ...] = ()
    """The identity that the commands ask their connection for: they get the credentials under this name."""
    beside: Mapping[Role, Person] = field(default_factory=dict[Role, Person])
    """Further identities, and whose credentials they get, if the user has them: the commands do with less."""
    tracking: bool = False
    """Whether MLflow is used."""
    gateway: bool = False
    """Whether the gateway is used, with a caller's key."""
    cluster: bool = False
    """Whether the Kubernetes API is used."""

    @property
    def services(self) -> frozenset[Service]:
        """What has to be reached."""
        wanted = {Service.S3: bool(self.people), Service.MLFLOW: self.tracking, Service.GATEWAY: self.gateway}
        return frozenset(service for service, needed in wanted.items() if needed)


NEEDS: Mapping[Use, Need] = {
    Use.LOOK: Need((Person.READER, Person.PROMOTER), (Role.PROMOTER,), tracking=True),
    Use.ASK: Need(gateway=True),
    Use.LOAD: Need((Person.READER, Person.PROMOTER), (Role.SERVER,), gateway=True),
    Use.TRAIN: Need((Person.TRAINER,), (Role.TRAINER,), tracking=True, cluster=True),
    # What has expired from staging may have been promoted.
    Use.EXPORT: Need((Person.TRAINER,), (Role.TRAINER,), {Role.SERVER: Person.READER}, tracking=True),
    Use.DECIDE: Need((Person.PROMOTER,), (Role.PROMOTER,), tracking=True),
    Use.PUSH: Need((Person.PROMOTER,), (Role.PROMOTER,)),
    Use.LIST: Need((Person.TRAINER, Person.PROMOTER), (Role.TRAINER,)),
}

AS_PERSON: Mapping[Person, Need] = {
    Person.READER: Need((Person.READER,), (Role.PROMOTER, Role.SERVER), tracking=True),
    Person.TRAINER: Need((Person.TRAINER,), (Role.TRAINER,), tracking=True, cluster=True),
    Person.PROMOTER: Need((Person.PROMOTER,), (Role.PROMOTER,), tracking=True),
}
"""All that a role has, for programs that are no command of ours."""

_COMMANDS: Mapping[str, Use] = {
    "versions": Use.LOOK,
    "status": Use.LOOK,
    "predict": Use.ASK,
    "loadtest": Use.LOAD,
    "train": Use.TRAIN,
    "export": Use.EXPORT,
    "gate": Use.DECIDE,
    "promote": Use.DECIDE,
    "rollback": Use.DECIDE,
    "gc": Use.DECIDE,
    "data push": Use.PUSH,
    "data list": Use.LIST,
}


def use_of(arguments: Sequence[str]) -> Use | None:
    """What a command of `modelport` uses, from what follows that word; None where it needs no platform."""
    given = arguments[2:] if list(arguments[:1]) == ["--stack"] else arguments
    words = [word for word in given if not word.startswith("-")]
    return _COMMANDS.get(" ".join(words[:2])) or _COMMANDS.get(" ".join(words[:1]))


def own_command(command: Sequence[str]) -> Sequence[str] | None:
    """What follows `modelport` in a command line that runs it; None where it runs something else."""
    if not command:
        return None
    program = PurePath(command[0]).name
    if program == "modelport":
        return command[1:]
    if program.startswith("python") and list(command[1:3]) == ["-m", "modelport"]:
        return command[3:]
    return None


@dataclass(frozen=True)
class Credentials:
    """What a role's Secret holds."""

    key: S3Key
    tracking_username: str | None
    tracking_password: str | None


@dataclass(frozen=True)
class Place:
    """Where a stack's services are, as the connection of a command says it."""

    s3_region: str
    bucket: str
    urls: Mapping[Service, str]
    cluster: Cluster


def connection_for(
    need: Need, place: Place, held: Mapping[Person, Credentials], gateway_key: str | None
) -> Connection | None:
    """The connection of commands with this need; None where this user has not what it takes.

    Args:
        need: what they need.
        place: where the services are.
        held: the credentials that the user may have, by role.
        gateway_key: the user's key at the gateway.
    """
    credentials = next((held[person] for person in need.people if person in held), None)
    if (need.people and credentials is None) or (need.gateway and gateway_key is None):
        return None
    urls = {service: place.urls[service] for service in need.services}
    tracked = credentials if need.tracking else None
    keys = {} if credentials is None else dict.fromkeys(need.asks, credentials.key)
    keys |= {role: held[person].key for role, person in need.beside.items() if person in held}
    return Connection(
        s3_endpoint=urls.get(Service.S3, ""),
        s3_region=place.s3_region,
        bucket=place.bucket,
        s3_keys=keys,
        tracking_uri=urls.get(Service.MLFLOW, ""),
        tracking_username=None if tracked is None else tracked.tracking_username,
        tracking_password=None if tracked is None else tracked.tracking_password,
        gateway_url=urls.get(Service.GATEWAY, ""),
        gateway_api_key=gateway_key if need.gateway else None,
        cluster=place.cluster if need.cluster else None,
    )
