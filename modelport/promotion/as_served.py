"""Whether a server computes what the gate measures, and would notice if it did not.

The gate runs a release's three graphs one after the other. A server runs the ensemble that the release carries, and
holds its answers against golden outputs within tolerances, which are the release's too: all of it from whoever trained.
"""

from pathlib import Path

from modelport.contract import TASKS, Task, check_wiring, step_names
from modelport.errors import GateFailed
from modelport.release import Release, Runtime, loosened


def check_as_served(release: Release) -> None:
    """Refuse a release that is served otherwise than it is measured, or whose replay would not show it.

    Raises:
        GateFailed: naming everything that is wrong.
        BadInput: its configurations or golden outputs cannot be read.
    """
    manifest = release.manifest
    found = check_wiring(release.pipeline(), manifest.model, manifest.task, Path("triton"))
    wrong = [": ".join(filter(None, (problem.file, problem.key, problem.message))) for problem in found]
    _refuse(release, [*wrong, *loosened(manifest), *_golden_problems(release)])


def check_graphs(release: Release, runtime: Runtime) -> None:
    """Refuse graphs that take or give other tensors than their step: the next one, run here, could use what it has not.

    Raises:
        GateFailed: naming the tensors.
    """
    wrong: list[str] = []
    for step, names in step_names(release.manifest.task).items():
        graph = runtime.graphs[step]
        for does, wanted, tensors in (("takes", names.inputs, graph.inputs), ("gives", names.outputs, graph.outputs)):
            found = sorted(tensor.name for tensor in tensors)
            if found != sorted(wanted):
                wrong.append(f"the graph of {step} {does} {', '.join(found)}, not {', '.join(sorted(wanted))}")
    _refuse(release, wrong)


def _golden_problems(release: Release) -> list[str]:
    manifest = release.manifest
    problems: list[str] = []
    for golden in release.golden():
        missing = [tensor.name for tensor in TASKS[manifest.task].outputs if tensor.name not in golden.expected]
        if missing:
            problems.append(f"the golden outputs of {golden.name} lack {', '.join(missing)}")
        elif manifest.task is Task.DETECT:
            # Detections are compared from this score on: said too high, none would be.
            said, lowest = manifest.thresholds.get("score", 0.0), golden.expected["scores"].min(initial=1.0)
            if not lowest >= said - 1e-3:
                problems.append(f"thresholds.score is {said:g}, but {golden.name} shows a detection of {lowest:.3g}")
    return problems


def _refuse(release: Release, problems: list[str]) -> None:
    if problems:
        raise GateFailed(
            f"release {release.digest[:12]} is not served as it is measured, or nobody would see it: "
            + "; ".join(problems),
            remedy=f"make `modelport check {release.manifest.model}` pass, and train it anew with this version",
        )
