"""The release manifest: one canonical JSON file that names every byte of a release. Its sha256 is the version."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from modelport.contract import ClassSpec, Task
from modelport.errors import BadInput

MANIFEST_FILE = "manifest.json"
TRAINING_DATA_FILE = "training_data.json"
"""sha256 of every image that the network learned from or was selected on; no file names, which may name people."""

FP32 = "fp32"
FP16 = "fp16"
INT8 = "int8"


def _inside(path: str) -> str:
    # A manifest may come from anybody who can write to staging: it must not lead out of the release's folder.
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or ".." in parts or "\\" in path or path.startswith("/"):
        raise ValueError("is not a plain path inside the release")
    if path == MANIFEST_FILE:
        raise ValueError("a manifest does not list itself")
    return path


_CAME_LATER = frozenset({"variants", "overlap", "above", "compared"})
"""Names of fields that are written only where they differ from their defaults."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
InnerPath = Annotated[str, AfterValidator(_inside)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the fields that came later and say nothing: what was written before them keeps its digest."""
        data: dict[str, Any] = handler(self)
        for name in _CAME_LATER & data.keys():
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                del data[name]
        return data


class FileEntry(_Part):
    """One file of a release."""

    sha256: Sha256
    size: int = Field(ge=0)
    """Bytes."""


class GoldenEntry(_Part):
    """One golden sample: an image as users send it, and torch's outputs for it."""

    file: InnerPath
    """JPEG or PNG."""
    outputs: InnerPath
    """npz of the named outputs, without pickles."""


class Tolerance(_Part):
    """How far an output may be from torch's.

    Arrays that belong to each other element by element have one of the limits `differing` and `absolute`. Detections
    come as sets (an order and a number that rounding may change): `boxes` then has `overlap` (or is as near as its
    `absolute`, in pixels), and `scores` its `absolute`; see `modelport.release.compare`.
    """

    differing: float | None = None
    """Greatest share of elements that may differ at all; of `boxes` with `overlap`, that may have no counterpart."""
    absolute: float | None = None
    """Greatest absolute difference of any element."""
    internal: bool = False
    """Whether a server may leave this output away: it flows between steps and is not what clients see."""
    overlap: float | None = None
    """Least intersection over union of a box and its counterpart of the same label."""
    above: float | None = None
    """Score from which a detection must have a counterpart: below, rounding decides whether it is told at all."""
    compared: bool = True
    """Whether it is looked at: what flows between the steps has no meaning of its own at a lower precision."""

    @model_validator(mode="after")
    def _looks_at_answers(self) -> "Tolerance":
        if not self.compared and not self.internal:
            raise ValueError("compared: false is only for what flows between the steps (internal: true)")
        return self


class ReleaseManifest(_Part):
    """Everything that is said of a release."""

    schema_: Literal["modelport.release/1"] = Field(default="modelport.release/1", alias="schema")
    model: str
    task: Task
    code_digest: Sha256
    """Digest of the model folder's bundle."""
    data_digest: Sha256
    heldout_digest: str | None
    """Of the held-out split that training kept out of reach; None where the dataset has none."""
    run_key: str
    """What the training run was started from; a run gives one release."""
    mlflow_run_id: str | None
    checkpoint_digest: Sha256 | None = None
    """Of the checkpoint that was exported."""
    parameters: dict[str, Any]
    classes: tuple[ClassSpec, ...]
    thresholds: dict[str, float]
    license: str
    metrics: dict[str, float]
    """Training's own claim, on the selection split; never evidence."""
    files: dict[InnerPath, FileEntry]
    golden: tuple[GoldenEntry, ...] = Field(min_length=1)
    tolerances: dict[str, dict[str, Tolerance]]
    """By precision (``fp32``), then by output."""
    versions: dict[str, str]
    """Of the libraries that made the graphs, and the ONNX opset."""
    variants: dict[str, InnerPath] = Field(default_factory=dict[str, InnerPath])
    """Graphs of the network step in further arithmetics, by precision (``int8``); ``fp32`` is the step's own."""

    @model_validator(mode="after")
    def _lists_variants(self) -> "ReleaseManifest":
        missing = sorted(set(self.variants.values()) - self.files.keys())
        if missing:
            raise ValueError(f"the variant {missing[0]} is not among its files")
        if FP32 in self.variants:
            raise ValueError("fp32 is no variant: it is what every release has")
        return self

    @property
    def precisions(self) -> tuple[str, ...]:
        """Every precision that the release carries a graph of; fp32 first."""
        return (FP32, *sorted(self.variants))

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal: the version."""
        return sha256(self.to_bytes())

    @classmethod
    def parse(cls, data: bytes, place: Path | str) -> "ReleaseManifest":
        """Read a manifest.

        Raises:
            BadInput: it is none, or one of a newer schema.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadInput(
                f"is not a release manifest that this version reads: {first['msg']}",
                file=place,
                key=".".join(map(str, first["loc"])) or None,
                remedy="train the model anew, or use the version of modelport that made it",
            ) from None


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """The one way in which this value is written, so that equal content has an equal digest."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256(data: bytes) -> str:
    """Digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
