"""YAML with positions, so that an error points at the line that a person has to change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelport.errors import BadInput


@dataclass(frozen=True)
class Source:
    """Plain data of a YAML file, and the line (from 1) of every key."""

    file: Path
    data: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]

    def line(self, location: Sequence[str | int]) -> int:
        """Line of a key, or of its nearest parent that stands in the file."""
        path = tuple(location)
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(file: Path) -> Source:
    """Read a mapping from a YAML file.

    Raises:
        BadInput: the file is missing, is not valid YAML, repeats a key, or is not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput("there is no such file", file=file, remedy="every model folder has one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read: {error}", file=file) from None
    try:
        # YAML's round-trip types are untyped; what leaves this function is plain data.
        document: Any = YAML(typ="rt").load(text)  # pyright: ignore[reportUnknownMemberType]
    except MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)
        raise BadInput(f"is not valid YAML: {problem}", file=file, line=mark.line + 1 if mark else None) from None
    if not isinstance(document, Mapping):
        raise BadInput("must be a mapping of keys to values", file=file, line=1)
    lines: dict[tuple[str | int, ...], int] = {}
    data = _plain(document, (), lines)
    return Source(file, data, lines)


def _plain(node: Any, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> Any:
    if isinstance(node, Mapping):
        positions: Any = getattr(node, "lc", None)
        plain: dict[Any, Any] = {}
        for key, value in node.items():  # pyright: ignore[reportUnknownVariableType]
            here = (*path, key)
            if positions is not None:
                lines[here] = positions.key(key)[0] + 1
            plain[key] = _plain(value, here, lines)
        return plain
    if isinstance(node, list):
        positions = getattr(node, "lc", None)  # pyright: ignore[reportUnknownArgumentType]
        items: list[Any] = []
        for index, value in enumerate(node):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            here = (*path, index)
            if positions is not None:
                lines[here] = positions.item(index)[0] + 1
            items.append(_plain(value, here, lines))
        return items
    for kind in (bool, int, float, str):  # ruamel's scalars subclass the plain ones
        if isinstance(node, kind):
            return kind(node)
    return node
