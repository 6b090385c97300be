"""Helm releases as the stand-in provider emulates them: the chart's kinds arrive, its pods where they can run."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_kuberay as kuberay
from plugin_kit import UNKNOWN, Refused

RELEASE = "kubernetes:helm.sh/v3:Release"

DEFINITIONS_VARIABLE = "MODELPORT_TEST_CRDS"
"""Environment variable: folder of ``<chart>/*.yaml``, the CustomResourceDefinitions that each chart brings."""


@dataclass(frozen=True)
class Chart:
    """How a chart treats the kinds that it brings."""

    brings_definitions: Callable[[Mapping[str, Any]], bool]
    """Whether it installs them, by its values."""
    keeps_definitions: bool
    """Whether they stay when the release goes, as Helm leaves a chart's ``crds/`` folder alone."""
    objects: Callable[[Mapping[str, Any]], list[dict[str, Any]]] = lambda inputs: []
    """What else it makes, where that is emulated."""


def _switched_on(values: Mapping[str, Any], path: tuple[str, ...], default: bool) -> bool:
    found: Any = values
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return default
        found = found[key]
    return found is True


CHARTS: Mapping[str, Chart] = {
    "kuberay-operator": Chart(lambda values: True, keeps_definitions=True, objects=kuberay.objects),
    "kube-prometheus-stack": Chart(
        lambda values: _switched_on(values, ("crds", "enabled"), default=True), keeps_definitions=True
    ),
    "keda": Chart(lambda values: _switched_on(values, ("crds", "install"), default=True), keeps_definitions=False),
    "cert-manager": Chart(
        lambda values: (
            _switched_on(values, ("crds", "enabled"), default=False)
            or _switched_on(values, ("installCRDs",), default=False)
        ),
        keeps_definitions=True,
    ),
}
"""Every chart that the stand-in accepts."""

FIELDS = frozenset(
    {
        *("atomic", "chart", "cleanupOnFail", "compat", "createNamespace", "description", "maxHistory", "name"),
        *("namespace", "repositoryOpts", "skipAwait", "skipCrds", "timeout", "values", "version", "waitForJobs"),
    }
)
"""Every field of a Release that the stand-in accepts."""

REPOSITORY_FIELDS = frozenset({"repo"})


def refusals(inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with a Release's inputs, or not emulated: pairs of property and reason."""
    chart = inputs.get("chart")
    found = [(field, f"the stand-in emulates no Release with `{field}`") for field in sorted(inputs.keys() - FIELDS)]
    if not chart:
        found.append(("chart", "required"))
    elif chart != UNKNOWN and chart not in CHARTS:
        found.append(("chart", f"the stand-in knows the charts {', '.join(CHARTS)}, not {chart!r}"))
    if not inputs.get("version"):
        found.append(("version", "a Release without a version takes whatever is newest: name one"))
    repository = inputs.get("repositoryOpts", {})
    if repository != UNKNOWN:
        found += [
            (f"repositoryOpts.{field}", f"the stand-in emulates no Release with `repositoryOpts.{field}`")
            for field in sorted(repository.keys() - REPOSITORY_FIELDS)
        ]
        if not str(repository.get("repo", "")).startswith("https://"):
            found.append(("repositoryOpts.repo", "required, an https:// address"))
    return found


@dataclass(frozen=True)
class Definition:
    """A CustomResourceDefinition of a chart, as text: parsing megabytes of schemas takes seconds."""

    name: str
    group: str
    kind: str
    namespaced: bool
    document: str


def definitions(inputs: Mapping[str, Any]) -> list[Definition]:
    """The kinds that a Release with these inputs installs.

    Raises:
        Refused: the folder that has them is not given, or has none for this chart.
    """
    values = inputs.get("values", {})
    chart = inputs["chart"]
    if inputs.get("skipCrds") is True or not CHARTS[chart].brings_definitions(values if values != UNKNOWN else {}):
        return []
    folder = os.environ.get(DEFINITIONS_VARIABLE)
    files = sorted(Path(folder, chart).glob("*.yaml")) if folder else []
    if not files:
        raise Refused(
            f"no definitions for chart {chart}: {DEFINITIONS_VARIABLE} must name a folder with {chart}/*.yaml"
        )
    return [definition for file in files for definition in parse(file.read_text())]


def parse(text: str) -> Iterator[Definition]:
    """The CustomResourceDefinitions in a YAML text as controller-gen writes it; other documents are passed over."""
    for document in re.split(r"^---.*$", text, flags=re.MULTILINE):
        if re.search(r"^kind: CustomResourceDefinition\s*$", document, flags=re.MULTILINE):
            yield Definition(
                name=_line(document, r"^  name: (\S+)"),
                group=_line(document, r"^  group: (\S+)"),
                kind=_line(document, r"^    kind: (\S+)"),
                namespaced=_line(document, r"^  scope: (\S+)") == "Namespaced",
                document=document,
            )


def _line(document: str, pattern: str) -> str:
    found = re.search(pattern, document, flags=re.MULTILINE)
    if found is None:
        raise Refused(f"a CustomResourceDefinition has no line like {pattern!r}")
    return found.group(1).strip("\"'")
