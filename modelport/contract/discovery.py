"""Model folders are discovered, never listed: adding one changes no other file."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from modelport.contract import bundle, triton
from modelport.contract.spec import SPEC_FILE, ModelSpec, load_spec, parse_spec
from modelport.errors import BadInput
from modelport.project import project_root


@dataclass(frozen=True)
class ModelFolder:
    """One folder under ``models/``; its parts are read, and complained of, when they are asked for."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.path.name

    @cached_property
    def spec(self) -> ModelSpec:
        """``model.yaml``, validated."""
        return load_spec(self.path)

    @cached_property
    def triton(self) -> triton.TritonPipeline:
        """Configurations under ``triton/``."""
        return triton.read_pipeline(self.path / "triton", self.name)

    @property
    def golden(self) -> list[Path]:
        """Images of ``sample/golden/``, by name."""
        folder = self.path / "sample" / "golden"
        if not folder.is_dir():
            return []
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))

    def bundle(self) -> bundle.Bundle:
        """What of the folder travels to where it is trained."""
        return bundle.pack(self.path)


def discover(root: Path) -> list[ModelFolder]:
    """Every folder under ``models/`` of a project, by name, but for hidden ones and those that begin with ``_``."""
    models = root / "models"
    if not models.is_dir():
        return []
    return [
        ModelFolder(path) for path in sorted(models.iterdir()) if path.is_dir() and not path.name.startswith((".", "_"))
    ]


def unpack_model(file: Path, name: str, root: Path) -> ModelFolder:
    """The model folder that a packed bundle holds, written to ``models/<name>`` under `root`.

    Raises:
        BadInput: the file is not there, or is no bundle of this model.
    """
    try:
        packed = file.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=file, key="--bundle") from None
    folder = ModelFolder(root / "models" / name)
    try:
        bundle.unpack(packed, folder.path)
    except BadInput as error:
        raise BadInput(
            error.message, file=file, key="--bundle", remedy="it is made by modelport.contract.pack"
        ) from None
    found = parse_spec((folder.path / SPEC_FILE).read_text()).name if (folder.path / SPEC_FILE).is_file() else None
    if found != name:
        raise BadInput(f"is a bundle of {found or 'no model'}, not of {name}", file=file, key="--bundle")
    return folder


def find_model(name: str, root: Path | None = None) -> ModelFolder:
    """The model folder of a name.

    Raises:
        BadInput: there is none; the message lists those that there are.
    """
    root = root or project_root()
    folders = {folder.name: folder for folder in discover(root)}
    if name not in folders:
        raise BadInput(
            f"there is no model {name!r}",
            file=root / "models",
            remedy=f"models here: {', '.join(folders) or 'none'}",
        )
    return folders[name]
