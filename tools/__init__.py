"""Pinned builds of the programs that the infrastructure's tests run: Pulumi, a Kubernetes control plane, operators.

``python -m tools`` builds what is missing; a folder here is one Go module that pins one tool by ``go.mod`` and
``go.sum``. From Python: ``program("kube-apiserver")``, ``crds("keda")``, ``stages()``.
"""

from tools.build import crds, program, stages
from tools.catalog import BuildError

__all__ = ["BuildError", "crds", "program", "stages"]
