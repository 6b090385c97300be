"""The tools: which Go module each is, and what comes out of it. Versions are in their ``go.mod`` files only."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent
"""Folder with one module per tool."""

Version = tuple[int, int, int]


class BuildError(Exception):
    """A tool cannot be had; the message says why, and what to do where that is known."""


@dataclass(frozen=True)
class Copied:
    """A file or folder of a module's source that is taken as it is."""

    module: str
    source: str
    """Path in the module; of a folder the definitions or stages in it and below it."""
    target: str
    """Path in the tool's folder."""


@dataclass(frozen=True)
class Tool:
    """What one folder under ``tools/`` gives."""

    name: str
    module: str | None = None
    """The Go module that this tool is named after; its version is the tool's. None: the program is in the folder."""
    programs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Package of each program, by the program's name."""
    ldflags: str = ""
    """Linker flags that tell programs their version, with {version}, {major} and {minor}."""
    tags: tuple[str, ...] = ()
    """Build tags, which leave parts of a program away."""
    copied: tuple[Copied, ...] = ()

    @property
    def offers(self) -> set[str]:
        """Names for `program`: those that are compiled and those that are copied as scripts."""
        return set(self.programs) | {
            copied.target.removeprefix("bin/") for copied in self.copied if copied.target.startswith("bin/")
        }

    def version(self, root: Path = ROOT) -> str | None:
        """Such as ``v1.2.3``; None for a program of ours, which has none.

        Raises:
            BuildError: the ``go.mod`` of this tool does not require its module.
        """
        return None if self.module is None else module_version(root / self.name, self.module)


KUBERNETES = "k8s.io/kubernetes"
_KUBERNETES_VERSION = "k8s.io/component-base/version"
_PULUMI = "github.com/pulumi/pulumi/pkg/v3"
_KWOK = "sigs.k8s.io/kwok"
_KUBERAY = "github.com/ray-project/kuberay/ray-operator"
_CONTAINERD = "github.com/containerd/containerd/v2"
_CNI = "github.com/containernetworking/plugins"
_COREDNS = "github.com/coredns/coredns"
_MINIO = "github.com/minio/minio"
_MC = "github.com/minio/mc"


def _crds_only(name: str, module: str, folder: str) -> Tool:
    return Tool(name, module, copied=(Copied(module, folder, "crds"),))


def _ours(name: str) -> Tool:
    return Tool(name, programs={name: f"modelport/tools/{name}"})


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "pulumi",
            _PULUMI,
            {"pulumi": f"{_PULUMI}/cmd/pulumi", "gensdk": "modelport/tools/pulumi/gensdk"},
            ldflags="-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={version}",
            copied=(
                Copied(
                    "github.com/pulumi/pulumi/sdk/v3",
                    "python/cmd/pulumi-language-python-exec",
                    "bin/pulumi-language-python-exec",
                ),
            ),
        ),
        # Control plane and node in one module: they share most of what is compiled, and have to be of one version.
        Tool(
            "kubernetes",
            KUBERNETES,
            {
                name: f"{KUBERNETES}/cmd/{name}"
                for name in (
                    "kube-apiserver",
                    "kube-controller-manager",
                    "kube-scheduler",
                    "kubectl",
                    "kubelet",
                    "kube-proxy",
                )
            },
            ldflags=f"-X {_KUBERNETES_VERSION}.gitVersion={{version}} -X {_KUBERNETES_VERSION}.gitMajor={{major}}"
            f" -X {_KUBERNETES_VERSION}.gitMinor={{minor}}",
        ),
        Tool("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}),
        Tool("kwok", _KWOK, {"kwok": f"{_KWOK}/cmd/kwok"}, copied=(Copied(_KWOK, "kustomize/stage", "stages"),)),
        Tool(
            "ray-operator",
            _KUBERAY,
            {"ray-operator": _KUBERAY},
            # What it may do stands in its chart too, which no module carries.
            copied=(
                Copied(_KUBERAY, "config/crd/bases", "crds"),
                Copied(_KUBERAY, "config/rbac/role.yaml", "role.yaml"),
            ),
        ),
        Tool(
            "containerd",
            _CONTAINERD,
            {name: f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
            ldflags=f"-X {_CONTAINERD}/version.Version={{version}}",
            # File systems that need C libraries, or that nobody has for this.
            tags=("no_btrfs", "no_devmapper", "no_zfs"),
        ),
        Tool(
            "cni",
            _CNI,
            {
                Path(package).name: f"{_CNI}/plugins/{package}"
                for package in ("main/bridge", "main/loopback", "ipam/host-local", "meta/portmap")
            },
        ),
        Tool("coredns", _COREDNS, {"coredns": _COREDNS}),
        Tool("minio", _MINIO, {"minio": _MINIO}),
        Tool("mc", _MC, {"mc": _MC}),
        _ours("pause"),
        _ours("probe"),
        _crds_only("keda", "github.com/kedacore/keda/v2", "config/crd/bases"),
        _crds_only(
            "prometheus-operator",
            "github.com/prometheus-operator/prometheus-operator",
            "example/prometheus-operator-crd",
        ),
        _crds_only("cert-manager", "github.com/cert-manager/cert-manager", "deploy/crds"),
        _crds_only("gateway-api", "sigs.k8s.io/gateway-api", "config/crd/standard"),
    )
}


def parse_version(text: str) -> Version:
    """The first ``1.2`` or ``1.2.3`` in a text as three numbers, the last 0 where it is missing.

    Raises:
        ValueError: there is none.
    """
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None:
        raise ValueError(f"no version in {text!r}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def module_version(folder: Path, module: str) -> str:
    """Version such as ``v1.2.3`` that the ``go.mod`` in a folder requires of a module.

    Raises:
        BuildError: it does not require it.
    """
    found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", (folder / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{folder / 'go.mod'} requires no {module}")
    return found[1]
