"""A small segmentation dataset, written anew for each test so that tests may damage it."""

import sys
from pathlib import Path

import pytest

from modelport.contract import ModelSpec, parse_spec

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from tiny_project import MODEL_YAML, write_dataset


@pytest.fixture
def spec() -> ModelSpec:
    """Of a segmentation with two classes; a fifth of the training examples select."""
    return parse_spec(MODEL_YAML)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixteen examples in train/, four in validation/."""
    return write_dataset(tmp_path / "dataset")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where datasets are cached."""
    return tmp_path / "cache"
