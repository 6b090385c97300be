"""Bringing one release up in Triton: what is rendered, written, loaded and asked before anybody may use it."""

import logging
from dataclasses import dataclass
from zipfile import BadZipFile

from modelport.contract import InstanceSettings, Precision, RenderedRelease, check_pipeline, parse_spec, render
from modelport.errors import BadInput, ModelportError
from modelport.imaging import decode
from modelport.release import Release, compare, tolerances_for
from modelport.serving.agent.repository import Repository
from modelport.serving.agent.triton import TritonServer
from modelport.serving.client import TritonRefused

log = logging.getLogger("modelport.agent")


class BadRelease(ModelportError):
    """The release itself is wrong: trying it again would end the same way."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """``manifest``, ``digest``, ``precision``, ``load`` or ``replay``; a label of the metric."""


@dataclass(frozen=True)
class Bringup:
    """What Triton is told of a release, and how the release is computed there."""

    release: Release
    rendered: RenderedRelease
    precision: Precision
    """Arithmetic of the network step on this replica."""


def prepare(release: Release, model: str, *, precision: Precision | None, gpu: bool) -> Bringup:
    """What Triton is to be told of a release.

    Args:
        precision: what the network step is to be computed in; None takes what the release's ``model.yaml`` says.
        gpu: whether steps run on the replica's GPU. Without one, fp16 is computed as fp32.

    Raises:
        BadRelease: it is another model's, its configurations are not ones that the platform loads, or it does not
            carry the precision.
    """
    short = release.digest[:12]
    if release.manifest.model != model:
        raise BadRelease("manifest", f"release {short} is of model {release.manifest.model}, not {model}")
    try:
        pipeline = release.pipeline()
        problems = check_pipeline(pipeline, model, release.manifest.task, release.folder / "triton")
        spec = parse_spec(release.read("model.yaml").decode(), release.folder / "model.yaml")
        missing = sorted(set(pipeline.steps) - set(release.graph_hashes()))
    except (BadInput, UnicodeDecodeError) as error:
        raise BadRelease("manifest", f"release {short}: {error}") from None
    if problems:
        raise BadRelease("manifest", f"release {short}: {problems[0].error()}")
    if missing:
        raise BadRelease("manifest", f"release {short} has no graph of its steps {', '.join(missing)}")
    chosen = precision or spec.serve.precision
    if chosen is Precision.FP16 and not gpu:
        log.info("%s: release %s is asked for in fp16; without a GPU it is served in fp32", model, short)
        chosen = Precision.FP32
    try:
        hashes = release.graph_hashes(_graph_of(chosen))
    except BadInput as error:
        raise BadRelease("precision", f"{error.message}; {error.remedy}") from None
    settings = InstanceSettings(spec.serve.instances, spec.serve.threads, gpu, chosen)
    return Bringup(release, render(pipeline, settings, hashes, model, release.digest), chosen)


def load(bringup: Bringup, repository: Repository, triton: TritonServer) -> None:
    """Write a release beside what is there, and load it with its steps.

    Raises:
        Unavailable: Triton is away.
        TritonRefused: it cannot be loaded.
    """
    graph = _graph_of(bringup.precision)
    plan = bringup.rendered
    repository.install(plan, {step: bringup.release.graph(step, graph) for step in plan.steps})
    triton.load(plan.name)


def _graph_of(precision: Precision) -> str:
    """Which graph is computed: TensorRT makes fp16 of the fp32 graph where it runs."""
    return Precision.FP32 if precision is Precision.FP16 else precision


def replay(bringup: Bringup, triton: TritonServer) -> None:
    """Ask the loaded release for every golden sample, by its own name.

    Digests say that nothing was changed on the way; only this says that it answers as it did when it was made.

    Raises:
        Unavailable: Triton is away.
        BadRelease: it fails, or answers something else than the manifest's outputs within the precision's tolerances.
    """
    release, name = bringup.release, bringup.rendered.name
    manifest = release.manifest
    tolerances = manifest.tolerances.get(bringup.precision)
    if tolerances is None:  # a release from before there were others than fp32
        tolerances = tolerances_for(manifest.task, manifest.thresholds, [bringup.precision])[bringup.precision]
    try:
        samples = [(golden, decode(golden.data)) for golden in release.golden()]
    except (BadInput, ValueError, KeyError, BadZipFile) as error:
        raise BadRelease("replay", f"its golden samples cannot be read: {error}") from None
    for golden, image in samples:
        try:
            outputs = triton.infer(name, {"image": image})
        except TritonRefused as error:
            raise BadRelease("replay", f"golden sample {golden.name} failed: {error.message}") from None
        problems = compare(outputs, golden.expected, tolerances)
        if problems:
            raise BadRelease("replay", f"golden sample {golden.name} is answered wrongly: {'; '.join(problems)}")
