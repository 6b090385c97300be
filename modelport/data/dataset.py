"""A dataset as training and the gate see it. Training's side has no way to the held-out files."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract import ModelSpec, Task
from modelport.data.address import Address, Kind, manifest_key, object_prefix, read_latest
from modelport.data.files import Attempt, Files, FolderFiles, ObjectFiles
from modelport.data.formats import FORMATS, HELDOUT_FOLDERS, check
from modelport.data.formats.classify import class_of
from modelport.data.formats.detect import absent_classes
from modelport.data.formats.images import decoded
from modelport.data.groups import (
    GROUPS_FILE,
    are_declared,
    grouped,
    groups_by_pattern,
    read_groups,
    require_groups,
)
from modelport.data.manifest import FileEntry, Item, Manifest
from modelport.data.sources import standard_folder
from modelport.data.splits import carve, carve_by_class, carve_heldout, carve_heldout_by_class
from modelport.errors import BadInput
from modelport.imaging import Pixels, decode
from modelport.objects import NotFound, ObjectStore


class Split:
    """Examples that play one role, in a fixed order. Every read is verified against the manifest's hash."""

    def __init__(self, items: Sequence[Item], files: Files, task: Task, classes: Sequence[str]) -> None:
        self._items = tuple(items)
        self._files = files
        self._task = task
        self._classes = tuple(classes)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ids(self) -> list[str]:
        """Names of the examples."""
        return [item.id for item in self._items]

    def group(self, index: int) -> str:
        """What must not be divided between splits, such as the patient."""
        return self._items[index].group

    def image(self, index: int) -> Pixels:
        """The image, decoded: uint8 [H, W, 3] RGB.

        Raises:
            BadInput: the file is gone, was changed or cannot be decoded.
        """
        entry = self._items[index].files["image"]
        # A copy that may be written to, as torch.from_numpy wants it.
        return np.array(decoded(entry, decode, self._files.read(entry)))

    def target(self, index: int) -> NDArray[Any]:
        """The truth about the image, by task.

        - segment: uint8 [H, W] of class ids, of the image's size;
        - detect: float32 [N, 5] rows (x1, y1, x2, y2 in pixels of the image, class id), N may be 0;
        - classify: int64 [], the class id.

        Raises:
            BadInput: a file is gone, was changed or cannot be decoded.
        """
        return FORMATS[self._task].truth(self._items[index], self._files.read, self._classes)

    def entry(self, index: int) -> FileEntry:
        """Path, hash and size of the image's file."""
        return self._items[index].files["image"]


class HeldOut(Split):
    """The examples that only the gate sees."""

    def __init__(
        self,
        items: Sequence[Item],
        files: Files,
        task: Task,
        classes: Sequence[str],
        *,
        digest: str,
        training_digest: str,
    ) -> None:
        super().__init__(items, files, task, classes)
        self.digest = digest
        """Digest of the held-out manifest."""
        self.training_digest = training_digest
        """Digest of the dataset that it belongs to, as `Dataset.digest` gives it."""


@dataclass(frozen=True)
class Dataset:
    """What a training may see: train and selection; of the held-out split only its digest."""

    manifest: Manifest
    """Files of train and selection together."""
    files: Files
    classes: tuple[str, ...]
    """Names of model.yaml's classes, in order of their ids."""
    selection_fraction: float
    seed: int
    """Decides which groups are the selection."""
    remarks: tuple[str, ...] = ()
    """What the user should know about how it was divided."""

    @property
    def digest(self) -> str:
        """Version of the data: every file of train, selection and, through its digest, held-out."""
        return self.manifest.digest

    @property
    def heldout_digest(self) -> str | None:
        """Version of the held-out split."""
        return self.manifest.heldout_digest

    @cached_property
    def divided(self) -> tuple[list[Item], list[Item]]:
        """Examples of train and of selection."""
        if self.manifest.task is Task.CLASSIFY:
            return carve_by_class(self.manifest.items, class_of, self.selection_fraction, self.seed)
        return carve(self.manifest.items, self.selection_fraction, self.seed)

    @cached_property
    def train(self) -> Split:
        """What the weights are fitted to."""
        return Split(self.divided[0], self.files, self.manifest.task, self.classes)

    @cached_property
    def selection(self) -> Split:
        """What epochs and thresholds are chosen on."""
        return Split(self.divided[1], self.files, self.manifest.task, self.classes)

    def connected(self, store: ObjectStore) -> "Dataset":
        """The same dataset, after it crossed to another process, with a connection of that process."""
        return replace(self, files=self.files.connected(store))

    def fetch(self, attempt: Attempt = lambda action: action()) -> None:
        """Bring every file near, verified; each by an `attempt` of its own, which may be repeated."""
        self.files.fetch((entry for item in self.manifest.items for entry in item.files.values()), attempt)

    def describe(self) -> dict[str, Any]:
        """Counts and digests, for people and for tracking."""
        return {
            "train": len(self.train),
            "selection": len(self.selection),
            "heldout": self.manifest.heldout_items,
            "digest": self.digest,
            "heldout_digest": self.heldout_digest,
        }


def load_dataset(uri: str, spec: ModelSpec, *, store: ObjectStore | None, cache: Path) -> Dataset:
    """Open a dataset: a local folder or zip, or ``s3://BUCKET/datasets/NAME[/manifests/DIGEST.json]``, the latest.

    What is local is hashed wholly; its files are decoded once per content, which `cache` remembers.

    Raises:
        BadInput: there is none, or a file of it is wrong.
        Unavailable: the object store is away.
    """
    address = Address.parse(uri)
    classes = tuple(label.name for label in spec.classes)
    if address is None:
        folder, found = standard_folder(Path(uri), spec, cache)
        training, heldout, remarks = scan_folder(folder, spec)
        _check_once(training, folder, classes, cache)
        check_apart(training, heldout)
        files: Files = FolderFiles(folder.resolve())
        remarks = (*found, *remarks, *absent_boxes(training, heldout, folder, spec))
    else:
        store = _needed(store, uri, address)
        training = _stored(store, Kind.DATASETS, address.name, address.digest)
        files, remarks = ObjectFiles(store, object_prefix(Kind.DATASETS, address.name), cache / "objects"), ()
        if training.task is not spec.task:
            raise BadInput(f"is a dataset for {training.task}, but {spec.name} is for {spec.task}", file=uri)
        FORMATS[spec.task].check_named(training.items, classes)
        FORMATS[spec.task].agree(training.items, files.read, classes)
    dataset = Dataset(training, files, classes, spec.data.selection_fraction, spec.train.seed, remarks)
    if address is not None:
        _check_pattern(dataset, spec, uri)
    return dataset


def load_heldout(uri: str, spec: ModelSpec, *, store: ObjectStore | None, cache: Path) -> HeldOut:
    """Open the held-out split of the same `uri` that a training was given; on S3 it takes the promoter's rights.

    Raises:
        BadInput: there is none, a file of it is wrong, or one of its images is in the training data as well.
        Refused: this identity may not read it.
        Unavailable: the object store is away.
    """
    address = Address.parse(uri)
    classes = tuple(label.name for label in spec.classes)
    if address is None:
        folder, _ = standard_folder(Path(uri), spec, cache)
        training, heldout, _ = scan_folder(folder, spec)
        _check_once(heldout, folder, classes, cache)
        files: Files = FolderFiles(folder.resolve())
    else:
        store = _needed(store, uri, address)
        training = _stored(store, Kind.DATASETS, address.name, address.digest)
        if training.heldout_digest is None:
            raise BadInput("has no held-out split", file=uri, remedy="push the dataset again")
        heldout = _stored(store, Kind.HELDOUT, address.name, training.heldout_digest)
        files = ObjectFiles(store, object_prefix(Kind.HELDOUT, address.name), cache / "objects")
        if heldout.task is not spec.task:
            raise BadInput(f"is a dataset for {heldout.task}, but {spec.name} is for {spec.task}", file=uri)
        FORMATS[spec.task].check_named(heldout.items, classes)
        _check_pattern_apart(training.items, heldout.items, "to train with and held out", spec, uri)
    check_apart(training, heldout)
    return HeldOut(heldout.items, files, heldout.task, classes, digest=heldout.digest, training_digest=training.digest)


def scan_folder(folder: Path, spec: ModelSpec) -> tuple[Manifest, Manifest, tuple[str, ...]]:
    """Manifests of a local folder: (train and selection, held-out), and remarks on how it was divided.

    ``train/`` and ``validation/`` are the two; without ``validation/`` the held-out split is carved from what there is.

    Raises:
        BadInput: naming what is missing or wrong.
    """
    if not folder.is_dir():
        raise BadInput(
            "there is no such folder", file=folder, remedy="give --data a folder, a zip, or s3://BUCKET/datasets/NAME"
        )
    names = [label.name for label in spec.classes]
    pattern = spec.data.group_pattern
    form = FORMATS[spec.task]
    train = folder / "train" if _is_divided(folder, spec.task, names) else folder
    items, remarks = form.scan(train, folder, names)
    validation = _validation(folder, spec.task, names)
    heldout_items, more = ([], ()) if validation is None else form.scan(validation, folder, names)
    scanned = [*items, *heldout_items]
    said = read_groups(folder, [(item.id, Path(item.files["image"].path)) for item in scanned])
    require_groups(folder, said, [item.id for item in scanned], pattern)
    items = grouped(items, folder, said, pattern)
    if validation is not None:
        heldout_items = grouped(heldout_items, folder, said, pattern)
        remarks = tuple(dict.fromkeys((*remarks, *more)))
        shared = {item.group for item in items} & {item.group for item in heldout_items}
        if are_declared(folder, pattern) and shared:
            by_file = (folder / GROUPS_FILE).is_file()
            raise BadInput(
                f"group {min(shared)!r} is in {train.name}/ and in {validation.name}/",
                file=folder / GROUPS_FILE if by_file else folder,
                key=None if by_file else "data.group_pattern",
                remedy="move all of a group to one side"
                + (f"; to {GROUPS_FILE} images that are called alike are one" if by_file else ""),
            )
    else:
        items, heldout_items = (
            carve_heldout_by_class(items, class_of, spec.data.heldout_fraction)
            if spec.task is Task.CLASSIFY
            else carve_heldout(items, spec.data.heldout_fraction)
        )
        remarks = (
            *remarks,
            f"no validation/ in {folder}: {len(heldout_items)} of its examples are held out, by group",
        )
        if spec.task is Task.CLASSIFY:
            remarks = (*remarks, *_not_everywhere(items, heldout_items))
    if len({item.group for item in items}) < 2 or not heldout_items:
        raise BadInput(
            f"too few examples: {len(items)} to train on and select with, {len(heldout_items)} held out",
            file=folder,
            remedy="a training needs at least two groups of examples, and one more for the gate",
        )
    heldout = Manifest(task=spec.task, items=tuple(heldout_items))
    training = Manifest(
        task=spec.task, items=tuple(items), heldout_digest=heldout.digest, heldout_items=len(heldout_items)
    )
    return training, heldout, remarks


def _is_divided(folder: Path, task: Task, classes: Sequence[str]) -> bool:
    """Whether a folder's ``train/`` holds the training examples; a class may be called so too, beside other classes."""
    beside = task is Task.CLASSIFY and any((folder / name).is_dir() for name in classes if name != "train")
    return (folder / "train").is_dir() and not beside


def _validation(folder: Path, task: Task, classes: Sequence[str]) -> Path | None:
    """The folder that a dataset brings for the gate; None if it brings none."""
    names = [name for name in HELDOUT_FOLDERS if task is not Task.CLASSIFY or name not in classes]
    found = [folder / name for name in names if (folder / name).is_dir()]
    if len(found) > 1:
        raise BadInput(f"is there beside {found[0].name}/", file=found[1], remedy="keep one folder that is held out")
    return found[0] if found else None


def _not_everywhere(items: Sequence[Item], heldout: Sequence[Item]) -> list[str]:
    absent = sorted({class_of(item) for item in items} - {class_of(item) for item in heldout})
    return [
        f"class {name!r} has too few groups of examples to hold one out: the gate will not see it" for name in absent
    ]


def _check_once(manifest: Manifest, folder: Path, classes: Sequence[str], cache: Path) -> None:
    # A manifest's digest covers every byte, so that what was decoded once need not be decoded at every start.
    names = hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()[:16]
    mark = cache / "checked" / f"{manifest.digest}-{names}"
    if mark.exists():
        return
    check(manifest.task, manifest.items, folder, classes)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def check_apart(training: Manifest, heldout: Manifest) -> None:
    """Refuse a dataset whose held-out split holds an image that is trained on.

    Raises:
        BadInput: naming the image.
    """
    shared = sorted(set(training.image_hashes) & set(heldout.image_hashes))
    if shared:
        raise BadInput(
            f"the same image is in the training data ({training.image_hashes[shared[0]].path}) and held out "
            f"({len(shared)} such image{'s' if len(shared) > 1 else ''})",
            file=heldout.image_hashes[shared[0]].path,
            remedy="remove it from one of the two; a held-out score on trained images means nothing",
        )


def absent_boxes(training: Manifest, heldout: Manifest, folder: Path, spec: ModelSpec) -> list[str]:
    """Remarks on the classes of a detection that a part of a local dataset has no box of.

    Raises:
        BadInput: a label file is wrong.
    """
    if spec.task is not Task.DETECT:
        return []
    classes = [label.name for label in spec.classes]
    train, selection = carve(training.items, spec.data.selection_fraction, spec.train.seed)
    parts = (
        (train, "train", "nothing of it is learnt"),
        (selection, "selection", "no epoch is chosen by it"),
        (heldout.items, "held-out", "no release of it passes the gate"),
    )
    return [
        f"class {name!r} has no box in the {part} split: {consequence}"
        for items, part, consequence in parts
        for name in absent_classes(items, folder, classes)
    ]


def _check_pattern(dataset: Dataset, spec: ModelSpec, uri: str) -> None:
    """Refuse a stored dataset that was divided without the groups that model.yaml's pattern finds.

    Groups that no file and no pattern gave are called as an example is. Others may be those of groups.csv, which stand
    against the pattern: they are refused only where train and selection really share a group of the pattern.
    """
    pattern = spec.data.group_pattern
    if pattern is None:
        return
    items = dataset.manifest.items
    undeclared = {item.id for item in items}
    stored: dict[str, set[str]] = {}
    for item, group in zip(items, groups_by_pattern(items, pattern), strict=True):
        stored.setdefault(group, set()).add(item.group)
    divided = sorted(group for group, names in stored.items() if len(names) > 1 and names & undeclared - {group})
    if divided:
        raise _not_by_pattern(divided, "not kept together", spec, uri)
    _check_pattern_apart(*dataset.divided, "in train and in selection", spec, uri)


def _check_pattern_apart(one: Sequence[Item], other: Sequence[Item], where: str, spec: ModelSpec, uri: str) -> None:
    pattern = spec.data.group_pattern
    if pattern is None:
        return
    groups = groups_by_pattern([*one, *other], pattern)
    shared = sorted(set(groups[: len(one)]) & set(groups[len(one) :]))
    if shared:
        raise _not_by_pattern(shared, where, spec, uri)


def _not_by_pattern(groups: Sequence[str], where: str, spec: ModelSpec, uri: str) -> BadInput:
    return BadInput(
        f"was pushed with other groups than {spec.data.group_pattern!r} finds: {len(groups)} of them "
        f"{'is' if len(groups) == 1 else 'are'} {where}, the first is {groups[0]!r}",
        file=uri,
        key="data.group_pattern",
        remedy=f"push the dataset again, with this pattern in model.yaml; if its {GROUPS_FILE} divides the examples "
        "otherwise on purpose, take the pattern out",
    )


def _stored(store: ObjectStore, kind: Kind, name: str, digest: str | None) -> Manifest:
    if digest is None:
        digest = read_latest(store, name).digest
    key = manifest_key(kind, name, digest)
    place = f"s3://{store.bucket}/{key}"
    try:
        content = store.get(key)
    except NotFound:
        raise BadInput("there is no such dataset", file=place, remedy=f"`modelport data list {name}`") from None
    return Manifest.parse(content, digest, place)


def _needed(store: ObjectStore | None, uri: str, address: Address) -> ObjectStore:
    if store is None:
        raise BadInput("needs a connection to the object store", file=uri, remedy="`modelport local up` gives one")
    if store.bucket != address.bucket:
        raise BadInput(f"is in another bucket than this platform's, {store.bucket!r}", file=uri, remedy="push it there")
    return store
