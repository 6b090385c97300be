"""Where things lie: the project's root and the folder for local state."""

import os
from pathlib import Path

from modelport.errors import BadInput


def project_root(start: Path | None = None) -> Path:
    """Folder that holds ``models/``: ``$MODELPORT_PROJECT``, or the nearest one upwards from `start` (default: here).

    Raises:
        BadInput: there is none.
    """
    named = os.environ.get("MODELPORT_PROJECT")
    if named:
        root = Path(named).resolve()
        if not (root / "models").is_dir():
            raise BadInput(
                "has no folder models/", file=root, key="MODELPORT_PROJECT", remedy="name the folder that holds models/"
            )
        return root
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "models").is_dir():
            return folder
    raise BadInput(
        "no folder models/ here or above",
        file=here,
        remedy="run this inside a project, or set MODELPORT_PROJECT to its root",
    )


def state_folder(root: Path | None = None) -> Path:
    """Folder of everything that commands keep on this machine: ``$MODELPORT_STATE``, or ``.modelport`` in the root."""
    named = os.environ.get("MODELPORT_STATE")
    return Path(named).resolve() if named else (root or project_root()) / ".modelport"
