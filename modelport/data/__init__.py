"""Datasets: formats, splits, manifests of hashes, and where the files lie (a local folder or S3, by the same code)."""

from modelport.data.address import Address, dataset_uri, pinned
from modelport.data.dataset import Dataset, HeldOut, Split, load_dataset, load_heldout
from modelport.data.manifest import FileEntry, Item, Manifest
from modelport.data.publish import DatasetVersion, PushResult, list_datasets, push

__all__ = [
    "Address",
    "Dataset",
    "DatasetVersion",
    "FileEntry",
    "HeldOut",
    "Item",
    "Manifest",
    "PushResult",
    "Split",
    "dataset_uri",
    "list_datasets",
    "load_dataset",
    "load_heldout",
    "pinned",
    "push",
]
