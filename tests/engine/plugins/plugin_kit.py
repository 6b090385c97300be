"""What every stand-in provider plugin shares: plain values, differences, errors, and serving on Pulumi's provider SDK.

A plugin is a module with a `pulumi.provider.experimental.provider.Provider` and ``serve(MyProvider(), version)`` at its
end. Inside it properties are plain Python: `plain` and `properties` convert, keeping secrets (as paths) and unknowns
(as the string `UNKNOWN`). Blocking work goes through `asyncio.to_thread`; `serve` gives that a large pool of threads.
"""

# ruff: noqa: N802  gRPC gives a servicer's methods their names

import asyncio
import gc
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias, cast

import grpc
import grpc.aio
from pulumi.provider.experimental import provider as sdk
from pulumi.provider.experimental import server as sdk_server
from pulumi.provider.experimental.property_value import Computed, PropertyValue
from pulumi.runtime import rpc
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, provider_pb2, provider_pb2_grpc, status_pb2

Path: TypeAlias = tuple[str | int, ...]
"""Where a value lies: keys of dictionaries and positions in lists."""

# The SDKs' tens of thousands of classes are no garbage, and a plugin lives for seconds.
gc.set_threshold(100_000)

UNKNOWN: str = rpc.UNKNOWN
"""What stands for a value that only an update will know."""

OLD_INPUTS = "__inputs"
"""Where `Servicer` hands a diff and an update the inputs of the time before; read it with `old_inputs`."""


class Typed(Protocol):
    """Any request about one resource."""

    @property
    def type(self) -> str:
        """Type tokens of the resource's parents that are components, and its own, with ``$`` between them."""
        ...


class Refused(Exception):
    """The request is wrong, or this stand-in does not emulate it; the engine shows the message and no traceback."""


class NotReady(Exception):
    """The object exists and stays in the state, but creating or updating it failed.

    Args:
        resource_id: the object's id.
        outputs: what the state keeps.
        inputs: inputs that the state keeps.
        reasons: why it failed, a line each.
    """

    def __init__(
        self,
        resource_id: str,
        outputs: dict[str, PropertyValue],
        inputs: dict[str, PropertyValue],
        reasons: Sequence[str],
    ) -> None:
        super().__init__("; ".join(reasons))
        self.resource_id = resource_id
        self.outputs = outputs
        self.inputs = inputs
        self.reasons = reasons


@dataclass(frozen=True)
class Plain:
    """Properties as plain Python."""

    values: dict[str, Any]
    """Whole numbers as int, unknowns as `UNKNOWN`; keys whose value is null are left out, as Pulumi means them."""
    secrets: frozenset[Path] = frozenset()
    """Paths of the secret values."""


def plain(values: Mapping[str, PropertyValue]) -> Plain:
    """Properties as plain Python.

    Raises:
        Refused: a value is an asset, an archive or a resource, which no stand-in emulates.
    """
    secrets: set[Path] = set()
    return Plain(_plain_mapping(values, (), secrets), frozenset(secrets))


def properties(values: Mapping[str, Any], secrets: Collection[Path] = ()) -> dict[str, PropertyValue]:
    """Plain Python as properties; values at the paths ``secrets`` become secret. Paths that lead nowhere are fine."""
    return {key: _property(value, (key,), secrets) for key, value in values.items()}


def has_unknown(value: Any) -> bool:
    """Whether a plain value is, or holds, something that only an update will know."""
    return any(leaf == UNKNOWN for leaf in _leaves(value))


def differences(old: Any, new: Any, path: str = "") -> dict[str, sdk.PropertyDiffKind]:
    """What differs between two plain values, as Pulumi writes paths (``spec.ports[0].name``, ``data["a.b"]``)."""
    return dict(_differences(old, new, path))


def diff_response(
    changed: Mapping[str, sdk.PropertyDiffKind],
    replaces: Collection[str] = (),
    *,
    delete_before_replace: bool = False,
) -> sdk.DiffResponse:
    """The answer to a diff: what `differences` found, and which of these paths need a new object."""
    return sdk.DiffResponse(
        changes=bool(changed),
        replaces=sorted(replaces),
        diffs=list(changed),
        detailed_diff={
            path: sdk.PropertyDiff(_REPLACING[kind] if path in replaces else kind, input_diff=True)
            for path, kind in changed.items()
        },
        delete_before_replace=bool(replaces) and delete_before_replace,
    )


def token(request: Typed) -> str:
    """Type token of the resource that a request is about; the SDK's own ``request.type`` begins with its parents'."""
    return request.type.rpartition("$")[2]


def old_inputs(request: sdk.DiffRequest | sdk.UpdateRequest) -> Plain:
    """The inputs that the state holds, or that the last refresh read; the SDK's own requests lack them."""
    state = request.old_state if isinstance(request, sdk.DiffRequest) else request.olds
    inputs = state.get(OLD_INPUTS)
    return plain(cast("Mapping[str, PropertyValue]", inputs.value)) if inputs is not None else Plain({})


def old_state(request: sdk.DiffRequest | sdk.UpdateRequest) -> Plain:
    """The outputs that the state holds."""
    state = request.old_state if isinstance(request, sdk.DiffRequest) else request.olds
    return plain({key: value for key, value in state.items() if key != OLD_INPUTS})


def tell(message: str, *, urn: str = "", warning: bool = False) -> None:
    """Print a line through the engine, for the whole update or for one resource."""
    severity = engine_pb2.WARNING if warning else engine_pb2.INFO
    _engine().Log(engine_pb2.LogRequest(severity=severity, message=message, urn=urn))


def serve(provider: sdk.Provider, version: str) -> None:
    """Serve ``provider`` until the engine ends it, or dies: the ``main`` of a plugin."""
    asyncio.run(_serve(provider, version))


class Servicer(sdk_server.ProviderServicer):
    """The SDK's servicer, with errors as people should see them, partial failures kept, and a diff's old inputs.

    The SDK's own turns every exception into a traceback and forgets objects that exist but failed. What the protocol
    says about old inputs it drops: here they travel inside the old state.
    """

    async def Configure(self, request: Any, context: Any) -> Any:
        return await _guarded(super().Configure, request, context)

    async def CheckConfig(self, request: Any, context: Any) -> Any:
        return await _guarded(super().CheckConfig, request, context)

    async def Invoke(self, request: Any, context: Any) -> Any:
        return await _guarded(super().Invoke, request, context)

    async def Check(self, request: Any, context: Any) -> Any:
        return await _guarded(super().Check, request, context)

    async def Diff(self, request: Any, context: Any) -> Any:
        request.olds.fields[OLD_INPUTS].struct_value.CopyFrom(request.old_inputs)
        return await _guarded(super().Diff, request, context)

    async def Create(self, request: Any, context: Any) -> Any:
        return await _guarded(super().Create, request, context)

    async def Update(self, request: Any, context: Any) -> Any:
        request.olds.fields[OLD_INPUTS].struct_value.CopyFrom(request.old_inputs)
        return await _guarded(super().Update, request, context)

    async def Read(self, request: Any, context: Any) -> Any:
        return await _guarded(super().Read, request, context)

    async def Delete(self, request: Any, context: Any) -> Any:
        return await _guarded(super().Delete, request, context)

    async def Construct(self, request: Any, context: Any) -> Any:
        return await _guarded(super().Construct, request, context)


_REPLACING = {
    sdk.PropertyDiffKind.ADD: sdk.PropertyDiffKind.ADD_REPLACE,
    sdk.PropertyDiffKind.DELETE: sdk.PropertyDiffKind.DELETE_REPLACE,
    sdk.PropertyDiffKind.UPDATE: sdk.PropertyDiffKind.UPDATE_REPLACE,
}


def _plain_mapping(values: Mapping[str, PropertyValue], path: Path, secrets: set[Path]) -> dict[str, Any]:
    return {key: _plain(value, (*path, key), secrets) for key, value in values.items() if value.value is not None}


def _plain(value: PropertyValue, path: Path, secrets: set[Path]) -> Any:
    if value.is_secret:
        secrets.add(path)
    inner = value.value
    if inner is None or isinstance(inner, bool | str):
        return inner
    if isinstance(inner, float):
        return int(inner) if inner.is_integer() else inner
    if isinstance(inner, Computed):
        return UNKNOWN
    if isinstance(inner, Mapping):
        return _plain_mapping(inner, path, secrets)
    if isinstance(inner, Sequence):
        return [_plain(item, (*path, position), secrets) for position, item in enumerate(inner)]
    place = ".".join(str(part) for part in path)
    raise Refused(f"{place}: a stand-in plugin takes no {type(inner).__name__}")


def _property(value: Any, path: Path, secrets: Collection[Path]) -> PropertyValue:
    secret = path in secrets
    if value is None or isinstance(value, bool | str):
        return PropertyValue(value, is_secret=secret)
    if isinstance(value, int | float):
        return PropertyValue(float(value), is_secret=secret)
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return PropertyValue(
            [_property(item, (*path, position), secrets) for position, item in enumerate(items)], is_secret=secret
        )
    entries = cast("Mapping[str, Any]", value)
    return PropertyValue(
        {key: _property(item, (*path, key), secrets) for key, item in entries.items()}, is_secret=secret
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in cast("dict[str, Any]", value).values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _leaves(item)
    else:
        yield value


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, sdk.PropertyDiffKind]]:
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        for key in sorted(before.keys() | after.keys()):
            place = _member(path, key)
            if key not in after:
                yield place, sdk.PropertyDiffKind.DELETE
            elif key not in before:
                yield place, sdk.PropertyDiffKind.ADD
            else:
                yield from _differences(before[key], after[key], place)
    elif isinstance(old, list) and isinstance(new, list):
        first, second = cast("list[Any]", old), cast("list[Any]", new)
        for position in range(max(len(first), len(second))):
            place = f"{path}[{position}]"
            if position >= len(second):
                yield place, sdk.PropertyDiffKind.DELETE
            elif position >= len(first):
                yield place, sdk.PropertyDiffKind.ADD
            else:
                yield from _differences(first[position], second[position], place)
    elif old != new or isinstance(old, bool) is not isinstance(new, bool):
        yield path, sdk.PropertyDiffKind.UPDATE


def _member(path: str, key: str) -> str:
    if not key.isidentifier():
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


async def _guarded(method: Callable[[Any, Any], Awaitable[Any]], request: Any, context: Any) -> Any:
    try:
        return await method(request, context)
    except grpc.aio.AbortError:
        raise
    except Exception as wrapped:  # noqa: BLE001  every error must reach the engine with a message
        # The SDK raises an exception with a traceback for text while it handles the real one.
        error = wrapped.__context__ if isinstance(wrapped.__context__, Exception) else wrapped
        message = str(error) if isinstance(error, Refused | NotReady) else "".join(traceback.format_exception(error))
        status = status_pb2.Status(code=_UNKNOWN_ERROR, message=message)
        if isinstance(error, NotReady):
            failed = provider_pb2.ErrorResourceInitFailed(
                id=error.resource_id,
                properties=PropertyValue.marshal_map(error.outputs),
                inputs=PropertyValue.marshal_map(error.inputs),
                reasons=list(error.reasons),
            )
            status.details.add().Pack(failed)
        answer = cast("Any", grpc.Status)()
        answer.code = grpc.StatusCode.UNKNOWN
        answer.details = message
        answer.trailing_metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        return await context.abort_with_status(answer)


_UNKNOWN_ERROR = 2
"""gRPC's number for an error of unknown kind; what the engine expects beside the details of a partial failure."""


@cache
def _engine() -> engine_pb2_grpc.EngineStub:
    return engine_pb2_grpc.EngineStub(grpc.insecure_channel(sys.argv[1]))


async def _serve(provider: sdk.Provider, version: str) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 400 << 20)])
    engine = sys.argv[1] if len(sys.argv) > 1 else ""
    servicer = Servicer(sys.argv[1:], version, provider, engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    parent = os.getppid()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, os._exit, 0)
    await server.start()
    print(port, flush=True)
    # An engine that was killed ends nobody: without it there is nothing left to do.
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    os._exit(1)
