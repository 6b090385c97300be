"""The manifest: which files a dataset consists of, by hash. Its own hash is the dataset's version."""

import hashlib
import json
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelport.contract import Task
from modelport.errors import BadInput


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Part):
    """One file."""

    path: str = Field(description="Path in the dataset's folder, with forward slashes.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes.")


class Item(_Part):
    """One example: an image and what belongs to it."""

    id: str = Field(description="Name, unique within its split.")
    group: str = Field(description="What must not be divided between splits, such as a patient.")
    files: dict[str, FileEntry] = Field(description="By role; a segmentation has `image` and `mask`.")


class Manifest(_Part):
    """Files of one split: of training and selection together, or of the held-out one.

    The training manifest names the held-out one by hash only, so that it can be shown to whoever trains.
    """

    version: int = 1
    task: Task
    items: tuple[Item, ...]
    heldout_digest: str | None = Field(default=None, description="Digest of the held-out manifest that belongs to it.")
    heldout_items: int = Field(default=0, description="How many items that one has.")

    @cached_property
    def content(self) -> bytes:
        """Canonical JSON: the same files give the same bytes everywhere."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def digest(self) -> str:
        """sha256 of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def hashes(self) -> dict[str, FileEntry]:
        """Every file by its sha256, for finding files that are in two manifests."""
        return {entry.sha256: entry for item in self.items for entry in item.files.values()}

    @cached_property
    def image_hashes(self) -> dict[str, FileEntry]:
        """Every image by its sha256. Masks are left out: two honest examples may share an all-background mask."""
        return {item.files["image"].sha256: item.files["image"] for item in self.items}

    @classmethod
    def parse(cls, content: bytes, digest: str, file: str) -> "Manifest":
        """Read stored bytes, which must have this digest.

        Raises:
            BadInput: they do not, or they are no manifest.
        """
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise BadInput(f"was changed: its sha256 is {found}", file=file, remedy="push the dataset again")
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise BadInput(f"is not a dataset manifest: {error}", file=file, remedy="push the dataset again") from None
