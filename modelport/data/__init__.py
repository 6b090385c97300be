"""Datasets: formats, splits, manifests of hashes, and where the files lie (a local folder or S3, by the same code)."""

from modelport.data.dataset import Dataset, HeldOut, Split, load_dataset, load_heldout
from modelport.data.manifest import FileEntry, Item, Manifest
from modelport.data.publish import DatasetVersion, PushResult, list_datasets, push

__all__ = [
    "Dataset",
    "DatasetVersion",
    "FileEntry",
    "HeldOut",
    "Item",
    "Manifest",
    "PushResult",
    "Split",
    "list_datasets",
    "load_dataset",
    "load_heldout",
    "push",
]
