"""Being connected: ports here that lead to a stack's services, and a connection file for each kind of command.

Each file holds what its commands need and nothing more, of what the cluster lets this user read.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from modelport.connection import Cluster, S3Key
from modelport.errors import BadInput, ModelportError, Refused
from modelport.remote.cluster import Forbidden, NotThere
from modelport.remote.directory import SecretPlace, ServicePlace, service_of
from modelport.remote.folders import SESSION, own_folder
from modelport.remote.kubectl import KubectlTunnel, program
from modelport.remote.relay import PodRoute, Relays, Route
from modelport.remote.stacks import Found
from modelport.remote.uses import (
    AS_PERSON,
    NEEDS,
    Credentials,
    Need,
    Person,
    Place,
    Service,
    Use,
    connection_for,
)

FILE, KEY = "connection.json", "api-key"
"""Keys of the Secrets of roles and of callers."""

OpenRoute = Callable[[Found, ServicePlace], Route]


@dataclass(frozen=True)
class Wanted:
    """What a session is for."""

    uses: Collection[Use]
    """Kinds of commands that will run in it."""
    people: Sequence[Person] | None = None
    """Roles to have; None: those that the user may."""
    caller: str | None = None
    """Whose key at the gateway; None: the one that the user may read."""
    ports: Mapping[Service, int] | None = None
    """Wishes; others are free ones."""
    shared: bool = False
    """Whether other terminals use it: there is one such session of a stack."""


@dataclass(frozen=True)
class Session:
    """A session that is up."""

    stack: str
    folder: Path
    people: Mapping[Person, str]
    """Why the user has not a role; empty where he has it."""
    gateway: str
    """Why the user has no key at the gateway; empty where he has one."""
    caller: str | None
    """Whose key it is."""
    uses: Collection[Use]
    """Kinds of commands that can be run."""
    urls: Mapping[Service, str]
    """Where the services are reached."""

    def environment(self) -> dict[str, str]:
        """Variables by which commands find it."""
        return {"MODELPORT_STACK": self.stack, SESSION: str(self.folder)}

    def file(self, use: Use) -> Path:
        """The connection of a kind of commands.

        Raises:
            Refused: the user has not what they need.
        """
        if use not in self.uses:
            raise Refused(self.why_not(use), remedy="modelport:access of the stack says which groups have which role")
        return self.folder / f"{use}.json"

    def file_of(self, person: Person) -> Path:
        """The connection with all that a role has."""
        return self.folder / f"{person}-role.json"

    def why_not(self, use: Use) -> str:
        """What the user lacks for a kind of commands."""
        need = NEEDS[use]
        lacks = [self.people[person] for person in need.people if self.people.get(person)]
        if need.people and len(lacks) < len(need.people):
            lacks = []
        if need.gateway and self.gateway:
            lacks.append(self.gateway)
        return f"stack {self.stack} gives you no right to do that: " + "; ".join(lacks)


def kubectl_route(found: Found, place: ServicePlace) -> Route:
    """A way to the pods behind a Service, over the API server.

    Raises:
        Unavailable: there is no kubectl.
        Forbidden: the user may not.
    """
    program()
    cluster = found.cluster
    target = cluster.target(place.namespace, place.name, place.port)
    ports: dict[str, int] = {}

    def ready() -> list[str]:
        pods = cluster.ready_pods(target)
        ports.update((pod.name, _number(target.port, pod.ports)) for pod in pods)
        return [pod.name for pod in pods]

    def open_tunnel(pod: str) -> KubectlTunnel:
        return KubectlTunnel(cluster.arguments(), place.namespace, pod, ports[pod])

    return PodRoute(f"{place.namespace}/{place.name}", ready, open_tunnel)


@contextmanager
def connected(
    found: Found,
    wanted: Wanted,
    root: Path,
    tell: Callable[[str], None],
    open_route: OpenRoute = kubectl_route,
) -> Generator[Session]:
    """Be connected to a stack.

    Args:
        found: the stack's cluster.
        wanted: what for.
        root: the state folder.
        tell: takes lines for people while it is up.
        open_route: how a Service is reached.

    Raises:
        Conflict: a shared session is up already.
        Refused: the user has no role that would be of use, or not the role or key that is wanted.
        BadInput: a port is in use, or there is no such role or caller.
        Unavailable: the cluster does not answer.
    """
    stack = found.directory.stack
    with own_folder(root, stack, shared=wanted.shared) as folder:
        held, people = _credentials(found, wanted)
        key, caller, no_key = _gateway_key(found, wanted)
        needs: dict[str, Need] = {use.value: NEEDS[use] for use in wanted.uses}
        needs |= {f"{person}-role": AS_PERSON[person] for person in wanted.people or ()}
        services = {
            service
            for need in needs.values()
            if (not need.people or any(person in held for person in need.people)) and (key or not need.gateway)
            for service in need.services
        }
        with Relays(tell) as relays:
            urls = _forward(found, services, wanted.ports or {}, relays, open_route)
            place = _place(found, urls, held)
            uses: list[Use] = []
            for name, need in needs.items():
                connection = connection_for(need, place, {p: c.credentials for p, c in held.items()}, key)
                if connection is not None:
                    connection.save(folder / f"{name}.json")
                    uses += [use for use in wanted.uses if use.value == name]
            made = Session(stack, folder, people, no_key, caller, tuple(uses), urls)
            if not uses and (wanted.uses or not held):
                raise Refused(
                    made.why_not(next(iter(wanted.uses))) if len(wanted.uses) == 1 else _nothing(made),
                    remedy="modelport:access of the stack says which groups have which role",
                )
            yield made


class _Held(BaseModel):
    """What a role's Secret says, as far as it is of use to a person."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    s3_region: str = "us-east-1"
    bucket: str = "modelport"
    s3_keys: dict[str, S3Key]
    tracking_username: str | None = None
    tracking_password: str | None = None

    @property
    def credentials(self) -> Credentials:
        """Its one key, and the login."""
        (key,) = self.s3_keys.values()
        return Credentials(key, self.tracking_username, self.tracking_password)


def _credentials(found: Found, wanted: Wanted) -> tuple[dict[Person, _Held], dict[Person, str]]:
    """What each role that is of use holds, and of each why not. A role that was asked for by name has to be there."""
    may_need = {person for use in wanted.uses for person in (*NEEDS[use].people, *NEEDS[use].beside.values())}
    asked = [person for person in Person if person in (may_need if wanted.people is None else wanted.people)]
    held: dict[Person, _Held] = {}
    why: dict[Person, str] = {person: f"{person}: not asked for" for person in Person}
    for person in asked:
        if wanted.people is None and _enough(wanted.uses, held, person):
            continue
        place = found.directory.people.get(person)
        try:
            if place is None:
                raise NotThere(f"the stack has no role {person}")
            held[person] = _read(found, place)
            why[person] = ""
        except (Forbidden, NotThere) as error:
            why[person] = f"{person}: {_told(error)}"
            if wanted.people is not None:
                raise Refused(f"role {person} is not yours: {_told(error)}", remedy=error.remedy) from None
    return held, why


def _enough(uses: Collection[Use], held: Mapping[Person, object], person: Person) -> bool:
    """Whether a role would add nothing: whoever needs it is content with one held already, which has fewer rights."""
    return not any(
        person in NEEDS[use].beside.values()
        or (
            person in NEEDS[use].people
            and not any(other in held for other in NEEDS[use].people[: NEEDS[use].people.index(person)])
        )
        for use in uses
    )


def _read(found: Found, place: SecretPlace) -> _Held:
    text = found.cluster.secret(place.namespace, place.name, FILE)
    try:
        held = _Held.model_validate_json(text)
        if len(held.s3_keys) != 1:
            raise ValueError(f"{len(held.s3_keys)} keys")
    except (ValidationError, ValueError) as error:
        # A message of a validation would show what is secret.
        problem = "its fields" if isinstance(error, ValidationError) else str(error)
        raise ModelportError(
            f"is no connection of one role ({problem})",
            key=f"Secret {place}",
            remedy="it is `pulumi up` that writes it: run it again, with this version of the platform",
        ) from None
    return held


def _gateway_key(found: Found, wanted: Wanted) -> tuple[str | None, str | None, str]:
    """A caller's key, whose it is, and why there is none."""
    if not any(NEEDS[use].gateway for use in wanted.uses):
        return None, None, "gateway: not asked for"
    callers = found.directory.callers
    if wanted.caller is not None:
        if wanted.caller not in callers:
            raise BadInput(
                f"the gateway knows no caller {wanted.caller!r}",
                key="--key",
                remedy=f"callers there: {', '.join(sorted(callers)) or 'none'} (modelport:gateway.callers)",
            )
        callers = {wanted.caller: callers[wanted.caller]}
    keys: dict[str, str] = {}
    said: list[str] = []
    for caller, place in sorted(callers.items()):
        try:
            keys[caller] = found.cluster.secret(place.namespace, place.name, KEY)
        except (Forbidden, NotThere) as error:
            said.append(_told(error))
            if wanted.caller is not None:
                raise Refused(f"the key of caller {caller} is not yours: {said[0]}", remedy=error.remedy) from None
    if len(keys) > 1:
        # Records name the caller: which one this is must not be a guess.
        return None, None, f"gateway: you may read the keys of {', '.join(keys)}; say which with --key"
    if not keys:
        return None, None, f"gateway: {said[0] if said else 'it has no callers'}"
    ((caller, key),) = keys.items()
    return key, caller, ""


def _forward(
    found: Found,
    services: Collection[Service],
    ports: Mapping[Service, int],
    relays: Relays,
    open_route: OpenRoute,
) -> dict[Service, str]:
    """Where each service is reached from here."""
    urls: dict[Service, str] = {}
    for service in Service:
        if service not in services:
            continue
        url = found.directory.urls[service]
        place = service_of(url)
        if place is None:
            # Outside of the cluster, such as a public object store.
            urls[service] = url
            continue
        port = relays.open(service.value, open_route(found, place), ports.get(service, 0))
        urls[service] = f"{urlsplit(url).scheme}://127.0.0.1:{port}"
    return urls


def _place(found: Found, urls: Mapping[Service, str], held: Mapping[Person, _Held]) -> Place:
    some = next(iter(held.values()), None) or _Held(s3_keys={})
    cluster = Cluster(
        kubeconfig=found.cluster.file,
        context=found.cluster.context,
        namespace=found.directory.training or "",
    )
    return Place(some.s3_region, some.bucket, urls, cluster)


def _nothing(made: Session) -> str:
    lines = [*(why for why in made.people.values() if why), made.gateway]
    return f"stack {made.stack} gives you no role: " + "; ".join(filter(None, lines))


def _told(error: ModelportError) -> str:
    return f"{error.key}: {error.message}" if error.key else error.message


def _number(port: int | str, named: Mapping[str, int]) -> int:
    if isinstance(port, int):
        return port
    try:
        return named[port]
    except KeyError:
        raise ModelportError(f"the pods have no port {port!r}") from None
