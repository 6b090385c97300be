"""A finished training becomes a release: exported, checked, staged, registered. Doing it again changes nothing."""

import hashlib
import math
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelport.connection import Connection, Role
from modelport.contract import CONFIG_FILE, ModelFolder, ModelSpec
from modelport.contract.spec import SPEC_FILE, Precision, parse_spec
from modelport.errors import BadInput, Unavailable
from modelport.imaging import decode
from modelport.objects import NotFound, ObjectStore
from modelport.project import state_folder
from modelport.release.manifest import (
    FP16,
    FP32,
    INT8,
    MANIFEST_FILE,
    TRAINING_DATA_FILE,
    FileEntry,
    GoldenEntry,
    ReleaseManifest,
    canonical_json,
    sha256,
)
from modelport.release.pipeline import Pipeline
from modelport.release.registry import RegisteredVersion, Registry
from modelport.release.replay import tolerances_for
from modelport.release.store import Release, staging_prefix, write_release
from modelport.release.variants import INT8_FILE, Calibration, make_int8

if TYPE_CHECKING:
    from modelport.training import TrainingResult


@dataclass(frozen=True)
class BuiltRelease:
    """A release that is ready for the gate."""

    digest: str
    version: int | None
    """MLflow's number of it; None without a platform."""
    path: Path
    """Verified local folder."""


def build(
    folder: ModelFolder, result: "TrainingResult", connection: Connection | None, spec: ModelSpec
) -> BuiltRelease:
    """Export, check, stage and register what a training gave.

    Every step can be repeated: after a crash anywhere, or with a service away, the same call finishes the rest, and one
    training run gives one release. Nothing is registered before it is staged whole.

    Args:
        folder: the model folder, with the code that was trained.
        result: the finished training.
        connection: platform to stage and register at, as the trainer; None makes the release on this machine only.
        spec: ``model.yaml`` with the overrides of this training.

    Raises:
        BadInput: the folder was changed since, or its graphs do not keep the contract.
        Unavailable: a service is away. A release that is staged already is safe.
    """
    place = state_folder(folder.path.resolve().parent.parent) / "releases" / folder.name
    wanted = _Wanted(spec.serve.precision, folder.spec.serve.precision)
    if connection is None:
        release = _made_before(place, result, wanted) or _make(folder, result, spec, place)
        return BuiltRelease(release.digest, None, release.folder)
    store = ObjectStore.connect(connection, Role.TRAINER)
    for registered in _registered(connection, folder.name, result):
        try:
            release = Release.fetch(store, staging_prefix(folder.name), registered.digest, place / registered.digest)
        except (NotFound, BadInput):
            continue  # its staging has expired or is damaged: it is made and staged again
        if wanted.is_met_by(release):
            return BuiltRelease(release.digest, registered.version, release.folder)
    release = _made_before(place, result, wanted) or _make(folder, result, spec, place)
    return stage(release, connection)


def stage(release: Release, connection: Connection) -> BuiltRelease:
    """Upload a release to staging and register it, as the trainer; doing it again changes nothing.

    Raises:
        Unavailable: a service is away. A release that is staged already is safe.
    """
    uri = release.upload(ObjectStore.connect(connection, Role.TRAINER), staging_prefix(release.manifest.model))
    try:
        version = Registry.connect(connection).register(release.manifest, release.digest, uri)
    except Unavailable as error:
        raise Unavailable(
            f"release {release.digest[:12]} is staged and safe, but not registered: {error.message}",
            remedy="run the same command again when MLflow answers; it trains nothing anew",
        ) from error
    return BuiltRelease(release.digest, version, release.folder)


@dataclass(frozen=True)
class _Wanted:
    """Which of a training run's releases is meant: for each precision that ``model.yaml`` asks for there is one."""

    precision: Precision
    """What the build is to carry."""
    written: Precision
    """What ``model.yaml`` says: servers read the copy of it that the release carries."""

    def is_met_by(self, release: Release) -> bool:
        """Whether the release carries this and nothing more, and says it."""
        if set(release.manifest.variants) != {self.precision.value} & {INT8}:
            return False
        try:
            return parse_spec(release.read(SPEC_FILE).decode()).serve.precision is self.written
        except (BadInput, UnicodeDecodeError):
            return False


def _registered(connection: Connection, model: str, result: "TrainingResult") -> list[RegisteredVersion]:
    """What this training run was registered as before, as far as MLflow can be asked now."""
    if not result.mlflow_run_id:
        return []
    try:
        return Registry.connect(connection).of_run(model, result.mlflow_run_id)
    except Unavailable:
        return []  # the release is staged first, and the registration then says that MLflow is away


def _made_before(place: Path, result: "TrainingResult", wanted: _Wanted) -> Release | None:
    """The local release of this training run, when an earlier call came that far."""
    for manifest in sorted(place.glob(f"[0-9a-f]*/{MANIFEST_FILE}")):
        try:
            release = Release.open(manifest.parent, manifest.parent.name)
        except (BadInput, Unavailable):
            # Damaged, of another version of this project, or not readable now: not ours to throw away. Where it is this
            # training's own, the one that is made now takes its place.
            continue
        made = release.manifest
        trained = (result.run_key, result.mlflow_run_id or None, _checkpoint_digest(result.checkpoint))
        if (made.run_key, made.mlflow_run_id, made.checkpoint_digest) == trained and wanted.is_met_by(release):
            return release
    return None


def _make(folder: ModelFolder, result: "TrainingResult", spec: ModelSpec, place: Path) -> Release:
    """Export and check; the release appears in its folder whole or not at all."""
    from modelport.release.export import check_graphs, export, library_versions

    code = folder.bundle().digest
    if code != result.code_digest:
        raise BadInput(
            f"was changed since the training (its code is {code[:12]}, {result.code_digest[:12]} was trained)",
            file=folder.path,
            remedy="bring the code back as it was, or train anew",
        )
    if not folder.golden:
        raise BadInput("holds no image", file=folder.path / "sample" / "golden", remedy="put 1 to 4 there")
    pipeline = _pipeline(folder, result.checkpoint, spec)
    tolerances = tolerances_for(spec.task, pipeline.thresholds, (FP32, FP16))
    images = [decode(path.read_bytes()) for path in folder.golden]
    exported = export(pipeline, spec.task, images, tolerances[FP32])
    problems = check_graphs(exported.graphs, folder.triton, folder.path / "triton")
    if problems:
        first, *others = problems
        message = "\n".join([first.message, *(str(other.error()) for other in others)])
        raise BadInput(message, file=first.file, line=first.line, key=first.key, remedy=first.remedy)
    files = {f"{step}/model.onnx": data for step, data in exported.graphs.items()}
    golden: list[GoldenEntry] = []
    for path, expected in zip(folder.golden, exported.expected, strict=True):
        entry = GoldenEntry(file=f"golden/{path.name}", outputs=f"golden/{path.stem}.npz")
        golden.append(entry)
        files |= {entry.file: path.read_bytes(), entry.outputs: _npz(expected)}
    files |= {path: data for path, data in folder.bundle().files if path.endswith(f"/{CONFIG_FILE}")}
    variants: dict[str, str] = {}
    if spec.serve.precision is Precision.INT8:
        tolerances |= tolerances_for(spec.task, pipeline.thresholds, (INT8,))
        names = [path.name for path in folder.golden]
        samples = list(zip(names, images, exported.expected, strict=True))
        calibration = Calibration.of(result.dataset.train)
        files |= make_int8(exported.graphs, spec.task, calibration, samples, tolerances[INT8])
        variants[INT8] = INT8_FILE
    files[SPEC_FILE] = (folder.path / SPEC_FILE).read_bytes()
    files[TRAINING_DATA_FILE] = canonical_json({"images": sorted(result.dataset.manifest.image_hashes)})
    manifest = ReleaseManifest(
        model=folder.name,
        task=spec.task,
        code_digest=result.code_digest,
        data_digest=result.data_digest,
        heldout_digest=result.heldout_digest,
        run_key=result.run_key,
        mlflow_run_id=result.mlflow_run_id or None,
        checkpoint_digest=_checkpoint_digest(result.checkpoint),
        parameters=dict(spec.train.parameters),
        classes=spec.classes,
        thresholds=dict(pipeline.thresholds),
        license=spec.license,
        # Training may diverge in a metric that selects nothing; JSON has no word for it.
        metrics={name: value for name, value in result.metrics.items() if math.isfinite(value)},
        files={path: FileEntry(sha256=sha256(data), size=len(data)) for path, data in sorted(files.items())},
        golden=tuple(golden),
        tolerances=tolerances,
        versions=library_versions(),
        variants=variants,
    )
    return write_release(manifest, files, place)


def _pipeline(folder: ModelFolder, checkpoint: Path, spec: ModelSpec) -> Pipeline:
    from modelport.training import load_entry

    module = load_entry(folder.path, "pipeline")
    made: object = module.pipeline(checkpoint, parameters=dict(spec.train.parameters))
    if not isinstance(made, Pipeline):
        raise BadInput(
            f"returned {type(made).__name__}",
            file=folder.path / "pipeline.py",
            key="pipeline",
            remedy="return modelport.release.Pipeline(preprocess, network, postprocess)",
        )
    return made


def _checkpoint_digest(checkpoint: Path) -> str:
    file = checkpoint / "checkpoint.pt"
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot be read: {error}", file=file, remedy="train anew: `modelport train --again`") from None


def _npz(tensors: dict[str, NDArray[Any]]) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in sorted(tensors.items()):
            # A fixed time: numpy.savez_compressed would do the same, but nowhere says so.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return stream.getvalue()
