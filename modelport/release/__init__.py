"""Releases: export to ONNX, manifest, golden files. Importing this loads no torch; building a release does."""

from modelport.release.build import BuiltRelease, build, stage
from modelport.release.manifest import (
    FP16,
    FP32,
    INT8,
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
from modelport.release.pipeline import GRAPH_FILE, NETWORK, Pipeline
from modelport.release.registry import DIGEST_TAG, RegisteredVersion, Registry
from modelport.release.replay import TOLERANCES, compare, loosened, tolerances_for
from modelport.release.runtime import Graph, Runtime
from modelport.release.store import RELEASES, Golden, Release, staging_prefix
from modelport.release.variants import with_int8

__all__ = [
    "DIGEST_TAG",
    "FP16",
    "FP32",
    "GRAPH_FILE",
    "INT8",
    "MANIFEST_FILE",
    "NETWORK",
    "RELEASES",
    "TOLERANCES",
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
    "loosened",
    "sha256",
    "stage",
    "staging_prefix",
    "tolerances_for",
    "with_int8",
]
