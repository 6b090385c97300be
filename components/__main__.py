"""The components as a Pulumi package, for projects in any language: `pulumi package add <this folder or its URL>`."""

import importlib.util
import sys
from pathlib import Path

from pulumi.provider.experimental import component_provider_host

_FOLDER = Path(__file__).resolve().parent


def _load() -> None:
    """Make ``components`` importable whatever this folder is called: Pulumi unpacks plugins under names of its own."""
    if "components" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "components", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["components"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    _load()
    from components.package import COMPONENTS, NAME, VERSION

    component_provider_host(name=NAME, components=COMPONENTS, version=VERSION)
