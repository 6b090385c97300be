"""Releases: export to ONNX, manifest, golden files. Importing this loads no torch; building a release does."""

from modelport.release.build import BuiltRelease, build
from modelport.release.manifest import (
    FP32,
    MANIFEST_FILE,
    TRAINING_DATA_FILE,
    FileEntry,
    GoldenEntry,
    ReleaseManifest,
    Sha256,
    Tolerance,
    canonical_json,
    sha256,
)
from modelport.release.pictures import keep_picture
from modelport.release.pipeline import Pipeline, step_names
from modelport.release.registry import DIGEST_TAG, RegisteredVersion, Registry
from modelport.release.replay import compare
from modelport.release.runtime import Graph, Runtime
from modelport.release.store import RELEASES, Golden, Release, staging_prefix

__all__ = [
    "DIGEST_TAG",
    "FP32",
    "MANIFEST_FILE",
    "RELEASES",
    "TRAINING_DATA_FILE",
    "BuiltRelease",
    "FileEntry",
    "Golden",
    "GoldenEntry",
    "Graph",
    "Pipeline",
    "RegisteredVersion",
    "Registry",
    "Release",
    "ReleaseManifest",
    "Runtime",
    "Sha256",
    "Tolerance",
    "build",
    "canonical_json",
    "compare",
    "keep_picture",
    "sha256",
    "staging_prefix",
    "step_names",
]
