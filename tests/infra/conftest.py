"""The real program on the real engine against a real API server: one dev stack that is up, for all tests that look.

Stand-ins: Google Cloud (inputs checked against the SDK), the kubelets (kwok). See tests/engine and tests/cluster.
"""

import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.nodes import Node, gke_node
from tests.engine.engine import Changes, Engine, chart_definitions, copy_project
from tests.policy.environments import policy_environment
from tools.build import ensure
from tools.catalog import TOOLS

PROJECT = Path(__file__).resolve().parents[2]

POOL = "modelport.dev/pool"
RECEIVER = "https://hooks.example.org/b4d-for-others-to-know"
"""Where prod's alerts go."""


def pool_node(
    name: str, pool: str, machine_type: str, cpu: str, memory: str, *, gpus: int = 0, zone: str = "a"
) -> Node:
    """A node of one of the stacks' pools."""
    return gke_node(
        name,
        machine_type=machine_type,
        cpu=cpu,
        memory=memory,
        pool=pool,
        zone=f"europe-west4-{zone}",
        accelerator="nvidia-l4" if gpus else None,
        gpus=gpus,
        labels={POOL: pool} if pool != "system" else {},
        taints=() if gpus or pool == "system" else (f"{POOL}={pool}:NoSchedule",),
    )


DEV_NODES = (
    *(pool_node(f"system-{zone}", "system", "e2-standard-4", "3500m", "12Gi", zone=zone) for zone in "abc"),
    *(pool_node(f"cpu-{number}", "cpu", "e2-standard-4", "3500m", "12Gi") for number in range(4)),
    pool_node("gpu-0", "gpu", "g2-standard-8", "7300m", "25Gi", gpus=1),
)
PROD_NODES = (
    *(pool_node(f"system-{zone}", "system", "n2-standard-4", "3500m", "12Gi", zone=zone) for zone in "abc"),
    *(pool_node(f"system-{zone}2", "system", "n2-standard-4", "3500m", "12Gi", zone=zone) for zone in "abc"),
    *(pool_node(f"serving-cpu-{zone}", "serving-cpu", "n2-standard-8", "7400m", "27Gi", zone=zone) for zone in "abc"),
    pool_node("training-cpu-0", "training-cpu", "n2-standard-8", "7400m", "27Gi"),
    pool_node("training-gpu-0", "training-gpu", "g2-standard-24", "23000m", "85Gi", gpus=2),
)


def add_model(root: Path, name: str, like: str = "polyp_seg") -> None:
    """A model folder that differs from another in its name only."""
    folder = root / "models" / name
    shutil.copytree(root / "models" / like, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [folder / "model.yaml", *folder.glob("triton/*/config.pbtxt")]:
        file.write_text(file.read_text().replace(like, name))
    if (folder / "triton" / like).is_dir():
        (folder / "triton" / like).rename(folder / "triton" / name)


@dataclass
class Environment:
    """A project's copy, its engine, its cluster."""

    project: Path
    engine: Engine
    cluster: ControlPlane

    def add_model(self, name: str, like: str = "polyp_seg") -> None:
        """A model folder that differs from another in its name only."""
        add_model(self.project, name, like)

    def remove_model(self, name: str) -> None:
        """Take a model folder away."""
        shutil.rmtree(self.project / "models" / name)

    def pods(self) -> dict[str, tuple[str, int]]:
        """UID and restarts of every pod of the platform, by namespace and name."""
        found: dict[str, tuple[str, int]] = {}
        for pod in self.cluster.get("/api/v1/pods")["items"]:
            metadata = pod["metadata"]
            if metadata["namespace"].startswith("modelport-"):
                restarts = sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))
                found[f"{metadata['namespace']}/{metadata['name']}"] = (metadata["uid"], restarts)
        return found


ML_LIBRARIES = ("torch", "ray", "mlflow", "onnxruntime")
"""What `pulumi up` must not need: it takes seconds to import, and gigabytes to install."""


def without_ml_libraries(engine: Engine, folder: Path) -> None:
    """Let the program fail that imports one: these stand first on its path."""
    for library in ML_LIBRARIES:
        (folder / library).mkdir(parents=True)
        (folder / library / "__init__.py").write_text(f"raise RuntimeError('{library} was imported')\n")
    engine.env["PYTHONPATH"] = f"{folder}:{engine.env['PYTHONPATH']}"


def environment(folder: Path, cluster: ControlPlane, stack: str) -> Environment:
    """A fresh copy of the project with a stack on Google's stand-in, whose program finds no ML library."""
    project = copy_project(PROJECT, folder / "project")
    engine = Engine(
        project,
        folder / "state",
        kubeconfig=cluster.kubeconfig,
        env={
            "MODELPORT_TEST_CRDS": str(chart_definitions(folder / "charts")),
            "MODELPORT_TEST_GCP": str(folder / "gcp.json"),
            "MODELPORT_TEST_KUBERAY_RIGHTS": str(ensure(TOOLS["ray-operator"]) / "role.yaml"),
        },
    )
    without_ml_libraries(engine, folder / "none")
    engine.stack_init(stack)
    engine.config_set("gcp:project", "a-project")
    engine.config_set("gcp:region", "europe-west4")
    return Environment(project, engine, cluster)


@dataclass
class Up(Environment):
    """An environment that is up."""

    first_preview: Changes | None
    """None where nobody looks at it."""
    first_up: Changes


@contextmanager
def brought_up(
    folder: Path,
    nodes: Sequence[Node],
    stack: str,
    *,
    preview: bool = False,
    policies: bool = False,
    secrets: Mapping[str, str] | None = None,
) -> Generator[Up]:
    """A stack that is up on a cluster of its own; with the policy pack in force where that is wanted.

    Args:
        folder: for all that it needs.
        nodes: of the cluster.
        stack: its name.
        preview: whether there is one before.
        policies: whether the policy pack is in force.
        secrets: further secret configuration, by path.
    """
    with ControlPlane(nodes=nodes) as cluster:
        made = environment(folder, cluster, stack)
        for key, value in (secrets or {}).items():
            made.engine.config_set(key, value, secret=True, path=True)
        previewed = made.engine.preview() if preview else None
        options: list[str] = []
        if policies:
            # The pack's own environment, as policy/README.md makes it.
            (made.project / "policy" / ".venv").symlink_to(policy_environment())
            options = ["--policy-pack", str(made.project / "policy")]
        up = made.engine.up(*options)
        yield Up(made.project, made.engine, cluster, previewed, up)


@pytest.fixture(scope="package")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """dev, up under the policies. Whoever changes it puts it back; tests/infra/test_taking_down.py ends it."""
    with brought_up(tmp_path_factory.mktemp("dev"), DEV_NODES, "dev", preview=True, policies=True) as up:
        yield up


@pytest.fixture(scope="package")
def prod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """prod, up."""
    secrets = {"modelport:monitoring.receivers.default": RECEIVER}
    with brought_up(tmp_path_factory.mktemp("prod"), PROD_NODES, "prod", secrets=secrets) as up:
        yield up


@pytest.fixture
def draft(tmp_path: Path, dev: Up) -> Environment:
    """dev in a project of its own, for previews: nothing is ever made of it, so it borrows the cluster."""
    return environment(tmp_path, dev.cluster, "dev")
