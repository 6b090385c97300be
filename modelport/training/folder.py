"""Loading a model folder's Python files, wherever the folder lies, as a package of its own."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from modelport.errors import BadInput

PACKAGE_PREFIX = "modelport_model_"


def load_entry(folder: Path, entry: str, *, name: str | None = None) -> ModuleType:
    """Import ``<entry>.py`` of a model folder; inside it, files import each other relatively.

    The folder is the package ``modelport_model_<name>`` (`name`: the folder's). Asked again for the same folder, the
    same modules come back; for another folder of the same name, that one's.

    Raises:
        BadInput: there is no such file, or a package that it imports is not installed.
    """
    folder = folder.resolve()
    package_name = PACKAGE_PREFIX + (name or folder.name)
    file = folder / f"{entry}.py"
    if not file.is_file():
        raise BadInput("there is no such file", file=file, remedy="`modelport check` says what a model folder has")
    package = sys.modules.get(package_name)
    if package is None or list(package.__path__) != [str(folder)]:
        for loaded in [module for module in sys.modules if module.partition(".")[0] == package_name]:
            del sys.modules[loaded]
        importlib.invalidate_caches()
        package = ModuleType(package_name)
        package.__path__ = [str(folder)]
        package.__spec__ = importlib.util.spec_from_loader(package_name, loader=None, is_package=True)
        sys.modules[package_name] = package
    try:
        return importlib.import_module(f"{package_name}.{entry}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith((package_name, "modelport.")):
            raise
        raise BadInput(
            f"imports {error.name!r}, which is not installed",
            file=file,
            remedy=f"install it, or import the folder's own files relatively: `from .{error.name} import ...`",
        ) from error
