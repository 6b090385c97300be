"""What version numbers stand for: MLflow gives them, and the promoter notes whose they were when he saw them.

Whoever trains registers, and so may write, move and delete what MLflow has of a model. The note is out of his reach.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelport.connection import Connection
from modelport.errors import BadInput, Conflict, Refused, Unavailable
from modelport.objects import NotFound, ObjectStore
from modelport.promotion.log import LOGS, SHORT
from modelport.release import Registry, canonical_json

NUMBER = re.compile(r"v([1-9][0-9]*)")
"""How people write MLflow's version number of a release."""
_ATTEMPTS = 5


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["modelport.numbers/1"] = Field(default="modelport.numbers/1", alias="schema")
    numbers: dict[int, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]


def numbers_key(model: str) -> str:
    """Key of a model's note, beside its promotion log."""
    return f"{LOGS}{model}/numbers.json"


def read_numbers(store: ObjectStore, model: str) -> tuple[dict[int, str], str | None]:
    """Digest by version number as noted, and the object's ETag; empty and None where nothing was noted yet.

    Raises:
        BadInput: the object is damaged.
    """
    key = numbers_key(model)
    try:
        data, etag = store.get_tagged(key)
    except NotFound:
        return {}, None
    try:
        return _Document.model_validate_json(data).numbers, etag
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = f"s3://{store.bucket}/{key}"
        raise BadInput(
            f"is no note of version numbers: {first['msg']}", file=place, remedy="restore it from a backup"
        ) from None


def note_numbers(store: ObjectStore, model: str, found: Mapping[int, str]) -> dict[int, str]:
    """Note numbers that are not noted yet; a noted one never changes.

    Args:
        found: digest by number, of releases that the gate has seen.

    Returns:
        Those of them that are noted for another release, with that release's digest.
    """
    for _ in range(_ATTEMPTS):
        noted, etag = read_numbers(store, model)
        if found.keys() - noted.keys():
            document = _Document(numbers=dict(found) | noted)
            try:
                store.replace(numbers_key(model), canonical_json(document.model_dump(mode="json", by_alias=True)), etag)
            except Conflict:
                continue
        return {number: noted[number] for number, digest in found.items() if noted.get(number, digest) != digest}
    raise Unavailable(f"others keep on noting version numbers of {model}")


def digest_of(store: ObjectStore | None, model: str, name: str, connection: Connection) -> str:
    """The release that a version number, such as ``v7``, stands for. Without MLflow, as noted.

    Args:
        store: where the note is; None, or one that may not read it, where only MLflow can be asked: whoever has no
            more than that changes nothing that is served.

    Raises:
        BadInput: there is no such version, or MLflow says something else of it than was noted.
        Unavailable: MLflow is away, and nothing was noted.
    """
    number = int(name.removeprefix("v"))
    noted = None
    if store is not None:
        with suppress(Refused):
            noted = read_numbers(store, model)[0].get(number)
    try:
        said = Registry.connect(connection).numbered(model, number)
    except Unavailable:
        if noted is None:
            raise
        return noted
    if noted is None and said is None:
        raise BadInput(f"MLflow has no version {name} of {model}", remedy=f"see `modelport versions {model}`")
    if noted is not None and said not in (None, noted):
        raise BadInput(differently(model, number, noted, said or ""), remedy="name the digest of the one that is meant")
    return noted or said or ""


def differently(model: str, number: int, noted: str, said: str) -> str:
    """That a number stands for another release in MLflow than it did, for people."""
    return (
        f"v{number} of {model} was release {noted[:SHORT]} when the gate saw it, and is {said[:SHORT]} in MLflow now: "
        "somebody changed it there, or MLflow was set up anew"
    )
