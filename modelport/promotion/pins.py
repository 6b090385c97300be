"""Pinned versions: a file under review that says which release a model serves, instead of the promotion log."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelport.errors import BadInput

STACK_KEY = "modelport:versions"
"""Where a stack's file pins models."""


@dataclass(frozen=True)
class Pins:
    """Digest by model, and the file that says so."""

    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    file: Path | None = None

    def diff(self, model: str, digest: str) -> str:
        """The change to the file that pins another release, as a unified diff."""
        name = str(self.file or "pins")
        old = (
            self.file.read_text() if self.file else "".join(f"{key}: {value}\n" for key, value in self.digests.items())
        )
        new = old.replace(self.digests[model], digest)
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"a/{name}", f"b/{name}", lineterm="", n=1)
        return "\n".join(lines)


NO_PINS = Pins()


def read_pins(file: Path | None) -> Pins:
    """Read a YAML mapping of models to digests, or a stack's file that has one; no file pins nothing.

    A stack's file is known by its ``config``; its pins are under ``modelport:versions``.

    Raises:
        BadInput: it is no such mapping.
    """
    if file is None:
        return NO_PINS
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    remedy = "write lines such as `polyp_seg: <digest of 64 digits>`"
    try:
        data: Any = YAML(typ="safe", pure=True).load(file.read_text())
    except FileNotFoundError:
        raise BadInput("there is no such file", file=file, remedy=remedy) from None
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise BadInput(f"cannot be read: {error}", file=file, remedy=remedy) from None
    if data is None:
        return Pins({}, file)
    if isinstance(data, dict) and isinstance(data.get("config"), dict):  # pyright: ignore[reportUnknownMemberType]
        data = data["config"].get(STACK_KEY) or {}
    if not isinstance(data, dict):
        raise BadInput("is not a mapping of models to digests", file=file, remedy=remedy)
    digests: dict[str, str] = {}
    for model, digest in data.items():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(model, str) or not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise BadInput("is not a release's digest", file=file, key=str(model), remedy=remedy)
        digests[model] = digest
    return Pins(digests, file)
