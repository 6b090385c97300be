"""Bringing one release up in Triton: what is rendered, written, loaded and asked before anybody may use it."""

from zipfile import BadZipFile

from modelport.contract import InstanceSettings, RenderedRelease, check_pipeline, parse_spec, render
from modelport.errors import BadInput, ModelportError
from modelport.imaging import decode
from modelport.release import FP32, Release, compare
from modelport.serving.agent.repository import GRAPH_FILE, Repository
from modelport.serving.agent.triton import TritonServer
from modelport.serving.client import TritonRefused


class BadRelease(ModelportError):
    """The release itself is wrong: trying it again would end the same way."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """``manifest``, ``digest``, ``load`` or ``replay``; a label of the metric."""


def rendered(release: Release, model: str, *, gpu: bool) -> RenderedRelease:
    """What Triton is told of a release.

    Raises:
        BadRelease: it is another model's, or its configurations are not ones that the platform loads.
    """
    if release.manifest.model != model:
        raise BadRelease("manifest", f"release {release.digest[:12]} is of model {release.manifest.model}, not {model}")
    try:
        pipeline = release.pipeline()
        problems = check_pipeline(pipeline, model, release.manifest.task, release.folder / "triton")
        spec = parse_spec(release.read("model.yaml").decode(), release.folder / "model.yaml")
        missing = sorted(set(pipeline.steps) - set(release.graph_hashes))
    except (BadInput, UnicodeDecodeError) as error:
        raise BadRelease("manifest", f"release {release.digest[:12]}: {error}") from None
    if problems:
        raise BadRelease("manifest", f"release {release.digest[:12]}: {problems[0].error()}")
    if missing:
        raise BadRelease("manifest", f"release {release.digest[:12]} has no graph of its steps {', '.join(missing)}")
    settings = InstanceSettings(instances=spec.serve.instances, threads=spec.serve.threads, gpu=gpu)
    return render(pipeline, settings, release.graph_hashes, model, release.digest)


def load(release: Release, plan: RenderedRelease, repository: Repository, triton: TritonServer) -> None:
    """Write a release beside what is there, and load it with its steps.

    Raises:
        Unavailable: Triton is away.
        TritonRefused: it cannot be loaded.
    """
    repository.install(plan, {step: release.read(f"{step}/{GRAPH_FILE}") for step in plan.steps})
    triton.load(plan.name)


def replay(release: Release, name: str, triton: TritonServer) -> None:
    """Ask the loaded release for every golden sample, by its own name.

    Digests say that nothing was changed on the way; only this says that it answers as it did when it was made.

    Raises:
        Unavailable: Triton is away.
        BadRelease: it fails, or answers something else than the manifest's outputs within its tolerances.
    """
    tolerances = release.manifest.tolerances.get(FP32, {})
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
