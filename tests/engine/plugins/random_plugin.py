"""Stand-in for ``pulumi-resource-random``, which no package index carries: passwords, strings and ids with keepers."""

import base64
import secrets
import string
from collections.abc import Mapping
from typing import Any

from plugin_kit import UNKNOWN, Plain, Refused, diff_response, differences, old_inputs, plain, properties, serve, token
from pulumi.provider.experimental import provider as sdk
from pulumi.provider.experimental.property_value import PropertyValue

VERSION = "4.21.4"

PASSWORD = "random:index/randomPassword:RandomPassword"
STRING = "random:index/randomString:RandomString"
ID = "random:index/randomId:RandomId"

CLASSES: Mapping[str, str] = {
    "lower": string.ascii_lowercase,
    "upper": string.ascii_uppercase,
    "numeric": string.digits,
    "special": "!@#$%&*()-_=+[]{}<>:?",
}
"""Classes of characters by the input that switches them on and off."""

_TEXT_TYPES: Mapping[str, type] = {
    "length": int,
    "keepers": dict,
    "overrideSpecial": str,
    **dict.fromkeys(CLASSES, bool),
    **{f"min{name.capitalize()}": int for name in CLASSES},
}
INPUTS: Mapping[str, Mapping[str, type]] = {
    PASSWORD: _TEXT_TYPES,
    STRING: _TEXT_TYPES,
    ID: {"byteLength": int, "keepers": dict, "prefix": str},
}
"""Inputs that are emulated, with their types, by type of resource."""

UNEMULATED = "bcryptHash is not made"


class RandomProvider(sdk.Provider):
    """Pulumi's random provider: a value is made once, and anew when any of its inputs changes."""

    async def configure(self, request: sdk.ConfigureRequest) -> sdk.ConfigureResponse:
        """Nothing to configure."""
        return sdk.ConfigureResponse(accept_secrets=True, supports_preview=True)

    async def check(self, request: sdk.CheckRequest) -> sdk.CheckResponse:
        """Refuse what is wrong or not emulated."""
        given = plain(request.new_inputs)
        failures = [
            sdk.CheckFailure(property=field, reason=why) for field, why in refusals(token(request), given.values)
        ]
        return sdk.CheckResponse(inputs=request.new_inputs, failures=failures)

    async def diff(self, request: sdk.DiffRequest) -> sdk.DiffResponse:
        """Every change makes a new value."""
        changed = differences(old_inputs(request).values, plain(request.new_inputs).values)
        return diff_response(changed, changed)

    async def create(self, request: sdk.CreateRequest) -> sdk.CreateResponse:
        """Make a value."""
        given = plain(request.properties)
        if request.preview:
            unknown = ("result",) if token(request) != ID else ("b64Std", "b64Url", "dec", "hex")
            return sdk.CreateResponse("", _outputs(token(request), given, dict.fromkeys(unknown, UNKNOWN)))
        if token(request) == ID:
            made = new_id(given.values)
            return sdk.CreateResponse(made["b64Url"], _outputs(token(request), given, made))
        text = new_text(given.values)
        resource_id = text if token(request) == STRING else "none"
        return sdk.CreateResponse(resource_id, _outputs(token(request), given, {"result": text}))

    async def delete(self, request: sdk.DeleteRequest) -> None:
        """Nothing to delete."""

    async def invoke(self, request: sdk.InvokeRequest) -> sdk.InvokeResponse:
        """No function is emulated."""
        raise Refused(f"the stand-in for the random provider has no function {request.tok}")


def refusals(type_token: str, inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with a resource's inputs, or not emulated: pairs of property and reason."""
    if type_token not in INPUTS:
        return [("", f"the stand-in for the random provider emulates no {type_token}")]
    types = INPUTS[type_token]
    found: list[tuple[str, str]] = []
    for field, value in inputs.items():
        if field not in types:
            found.append((field, f"the stand-in for the random provider emulates no `{field}`"))
        elif value != UNKNOWN and type(value) is not types[field]:
            found.append((field, f"must be of type {types[field].__name__}"))
    size = "byteLength" if type_token == ID else "length"
    if size not in inputs:
        found.append((size, "required"))
    if found or inputs[size] == UNKNOWN:
        return found
    if inputs[size] < 1:
        found.append((size, "must be at least 1"))
    if type_token != ID:
        if not _alphabet(inputs):
            found.append(("lower", "at least one class of characters must be switched on"))
        if inputs[size] < sum(_minimum(inputs, name) for name in CLASSES):
            found.append((size, "is less than the minimums of the classes together"))
    return found


def new_text(inputs: Mapping[str, Any]) -> str:
    """A random text of ``length`` characters with at least the wanted number of each class, in random order."""
    characters = [secrets.choice(_characters(inputs, name)) for name in CLASSES for _ in range(_minimum(inputs, name))]
    alphabet = _alphabet(inputs)
    characters += [secrets.choice(alphabet) for _ in range(inputs["length"] - len(characters))]
    secrets.SystemRandom().shuffle(characters)
    return "".join(characters)


def new_id(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Random bytes in the four notations that a RandomId has, each behind its prefix."""
    made, prefix = secrets.token_bytes(inputs["byteLength"]), inputs.get("prefix", "")
    return {
        "b64Std": prefix + base64.b64encode(made).decode(),
        "b64Url": prefix + base64.urlsafe_b64encode(made).decode().rstrip("="),
        "dec": prefix + str(int.from_bytes(made)),
        "hex": prefix + made.hex(),
    }


def _characters(inputs: Mapping[str, Any], name: str) -> str:
    return inputs.get("overrideSpecial") or CLASSES[name] if name == "special" else CLASSES[name]


def _alphabet(inputs: Mapping[str, Any]) -> str:
    return "".join(_characters(inputs, name) for name in CLASSES if inputs.get(name, True) is not False)


def _minimum(inputs: Mapping[str, Any], name: str) -> int:
    minimum = inputs.get(f"min{name.capitalize()}", 0)
    return minimum if minimum != UNKNOWN else 0


def _outputs(type_token: str, given: Plain, made: Mapping[str, str]) -> dict[str, PropertyValue]:
    hidden = {("result",)} if type_token == PASSWORD else set[tuple[str | int, ...]]()
    defaults = {} if type_token == ID else {"numeric": True, "lower": True, "upper": True, "special": True}
    return properties({**defaults, **given.values, **made}, given.secrets | hidden)


if __name__ == "__main__":
    serve(RandomProvider(), VERSION)
