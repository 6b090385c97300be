"""Where replicas are: at fixed addresses, or behind a name that is resolved anew at every look."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelport.errors import BadInput, Unavailable

_RESOLVE_SECONDS = 2.0

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the addresses of a name, none where it has none; raises `Unavailable` where that cannot be found out."""


@dataclass(frozen=True, order=True)
class Replica:
    """One agent, and the Triton beside it."""

    agent: str
    """URL."""
    triton: str
    """host:port of gRPC."""


@dataclass(frozen=True)
class Place:
    """An agent's URL and a Triton's address, as a connection gives them: a replica, or a name of many."""

    agent: str
    triton: str

    @property
    def name(self) -> str | None:
        """The DNS name whose every address is a replica; None where this is one replica.

        It is one where agent and Triton are at the same name: what has the one's address has the other's.
        """
        host = urlsplit(self.agent).hostname
        if host is None or host != _host_and_port(self.triton)[0] or host == "localhost" or _is_address(host):
            return None
        return host

    def replicas(self, addresses: Sequence[str] = ()) -> list[Replica]:
        """The replica, or one for each of the name's addresses."""
        if self.name is None:
            return [Replica(self.agent, self.triton)]
        url, (_, triton_port) = urlsplit(self.agent), _host_and_port(self.triton)
        agent_port = "" if url.port is None else f":{url.port}"
        hosts = [f"[{address}]" if ":" in address else address for address in sorted(set(addresses))]
        return [Replica(f"{url.scheme}://{host}{agent_port}{url.path}", f"{host}:{triton_port}") for host in hosts]


def places(agent_urls: Sequence[str], triton_grpc: str) -> list[Place]:
    """What a connection says of replicas: each agent's Triton, or one Triton for all of them.

    Args:
        agent_urls: URL of each agent.
        triton_grpc: host:port of Triton's gRPC; several with commas, one for each agent.

    Raises:
        BadInput: there are neither as many as agents nor one, or one is no address.
    """
    tritons = [part.strip() for part in triton_grpc.split(",")]
    if len(tritons) == 1:
        tritons *= len(agent_urls)
    if len(tritons) != len(agent_urls):
        raise BadInput(
            f"names {len(tritons)} servers for {len(agent_urls)} agents",
            key="triton_grpc",
            remedy="name one for each of agent_urls, in the same order, or a single one",
        )
    for key, host in [("triton_grpc", _host_and_port(triton)[0]) for triton in tritons] + [
        ("agent_urls", urlsplit(url).hostname) for url in agent_urls
    ]:
        if not host:
            raise BadInput(
                "holds no address", key=key, remedy="write HOST:PORT for Triton, http://HOST:PORT for agents"
            )
    return [Place(url.rstrip("/"), triton) for url, triton in zip(agent_urls, tritons, strict=True)]


async def resolve(name: str) -> list[str]:
    """Every address of a name now; none where it has none.

    Raises:
        Unavailable: the name service does not answer.
    """
    nothing = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            rows = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in nothing:
            return []
        raise Unavailable(f"{name} cannot be resolved: {error.strerror}") from None
    except TimeoutError:
        raise Unavailable(f"{name} cannot be resolved: no answer within {_RESOLVE_SECONDS:g} s") from None
    return sorted({str(row[4][0]) for row in rows})


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.strip("[]").lower(), port


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
