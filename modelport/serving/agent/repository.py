"""Triton's model repository on disk: folders that appear whole, under names whose content never changes."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from modelport.contract import RenderedRelease
from modelport.release import GRAPH_FILE

CONFIG_FILE = "config.pbtxt"
_TEMPORARY = ".writing-"


class Repository:
    """The part of a model repository that belongs to one model."""

    def __init__(self, root: Path, model: str) -> None:
        self._root = root
        self._model = model

    def names(self) -> frozenset[str]:
        """Folders of this model's releases and steps; not the alias."""
        if not self._root.is_dir():
            return frozenset()
        return frozenset(path.name for path in self._root.iterdir() if self.owns(path.name) and path.is_dir())

    def owns(self, name: str) -> bool:
        """Whether a Triton name is one of this model's releases or steps. Model names hold no dot."""
        return name.startswith(f"{self._model}.")

    def clean(self) -> None:
        """Remove what a killed agent left half-written."""
        for path in self._root.glob(f"{_TEMPORARY}{self._model}.*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def install(self, rendered: RenderedRelease, graphs: Mapping[str, bytes]) -> None:
        """Write what a release needs and is not there yet: its configurations, and the verified graph of each step."""
        for step, name in rendered.steps.items():
            self._ensure(name, rendered.configs[name], graphs[step])
        self._ensure(rendered.name, rendered.configs[rendered.name], None)

    def alias(self) -> str | None:
        """Text of the alias, None when there is none."""
        try:
            return (self._root / self._model / CONFIG_FILE).read_text()
        except FileNotFoundError:
            return None

    def write_alias(self, text: str) -> None:
        """Replace the alias's configuration atomically; identical text is left alone (a new time would be a reload)."""
        if self.alias() == text:
            return
        folder = self._root / self._model
        (folder / "1").mkdir(parents=True, exist_ok=True)
        temporary = self._root / f"{_TEMPORARY}{self._model}.alias"
        temporary.write_text(text)
        temporary.replace(folder / CONFIG_FILE)

    def remove(self, name: str) -> None:
        """Delete a folder, atomically as Triton sees it."""
        if not self.owns(name):
            raise ValueError(f"{name} is not a release or step of {self._model}")
        aside = self._temporary(f"{name}.removed")
        try:
            (self._root / name).rename(aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside)

    def remove_all(self) -> None:
        """Delete everything of this model, the alias too."""
        shutil.rmtree(self._root / self._model, ignore_errors=True)
        for name in self.names():
            self.remove(name)

    def _ensure(self, name: str, config: str, graph: bytes | None) -> None:
        folder = self._root / name
        if _holds(folder, config, graph):
            return  # rewriting identical bytes would make Triton reload a step that is serving
        temporary = self._temporary(name)
        (temporary / "1").mkdir(parents=True)
        (temporary / CONFIG_FILE).write_text(config)
        if graph is not None:
            (temporary / "1" / GRAPH_FILE).write_bytes(graph)
        self.remove(name)
        temporary.rename(folder)

    def _temporary(self, name: str) -> Path:
        path = self._root / f"{_TEMPORARY}{name}.{os.getpid()}"
        if path.exists():
            shutil.rmtree(path)
        return path


def _holds(folder: Path, config: str, graph: bytes | None) -> bool:
    try:
        if (folder / CONFIG_FILE).read_text() != config or not (folder / "1").is_dir():
            return False
        return graph is None or (folder / "1" / GRAPH_FILE).read_bytes() == graph
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return False
