"""A process that can import neither a training library nor any model's code.

The gate is to judge what will be served: graphs and a manifest. It must not be possible for it to ask the trainer's
code instead, by whatever import.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

REFUSED = ("torch", "torchvision", "ray", "tensorflow", "models")
"""Modules that are refused, with everything below them."""
REFUSED_PREFIX = "modelport_model_"
"""Beginning of the names under which model folders are imported."""


class _Refusal(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if is_refused(fullname):
            raise ImportError(f"the gate refuses to import {fullname!r}: it judges graphs, not code", name=fullname)
        return None


def is_refused(module: str) -> bool:
    """Whether a module of this name is refused."""
    return module.partition(".")[0] in REFUSED or module.startswith(REFUSED_PREFIX)


def refuse_imports() -> None:
    """Refuse these modules in this process from now on.

    Raises:
        ImportError: one of them was imported before.
    """
    present = refused_modules()
    if present:
        raise ImportError(f"the gate's process holds modules that it refuses: {', '.join(present)}")
    sys.meta_path.insert(0, _Refusal())


def refused_modules() -> list[str]:
    """Refused modules that this process holds."""
    return sorted(name for name in sys.modules if is_refused(name))
