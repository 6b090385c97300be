"""A network as a TensorRT plan: built by ``trtexec`` on the machine whose GPU will run it.

A plan is good for one version of TensorRT and one kind of GPU, so its name carries both. Nothing here needs TensorRT's
Python packages: Triton's own image has the tool, and that is where a plan for Triton belongs to be built.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelport.contract import Precision
from modelport.contract.triton import ModelConfig, profile_shapes
from modelport.errors import ModelportError, Unavailable

IMAGE = "nvcr.io/nvidia/tritonserver:25.09-py3"
"""What servers run."""
_IN_IMAGE = "/usr/src/tensorrt/bin/trtexec"
_BUILD_SECONDS = 3600.0
_LOOK_SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """What a plan is built for."""

    tensorrt: str
    """Version, as trtexec writes it: ``101303`` is 10.13.3."""
    gpu: str
    """Name, such as ``NVIDIA L4``."""
    capability: str
    """Compute capability, such as ``8.9``."""

    def plan_name(self, graph_hash: str, precision: Precision) -> str:
        """File of the plan of a graph: no two that differ in anything share a name."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        return (
            f"network-{graph_hash[:12]}-{precision}-trt{self.tensorrt}-sm{self.capability.replace('.', '')}-{gpu}.plan"
        )


def shapes(config: ModelConfig) -> dict[str, str]:
    """trtexec's options for the sizes of batch that a configuration allows: from one to ``max_batch_size``."""
    return {f"--{bound}Shapes": shapes for bound, shapes in profile_shapes(config).items()}


def command(onnx: str, plan: str, timing: str, config: ModelConfig, precision: Precision) -> list[str]:
    """Arguments of trtexec, without the program.

    Args:
        onnx: file of the graph; of int8 one with ``QuantizeLinear`` nodes without zero points.
        timing: file in which measured kernels are kept, so that the next plan is built faster.
    """
    # What int8 leaves float may as well be 16 bits wide.
    flags = {Precision.FP32: [], Precision.FP16: ["--fp16"], Precision.INT8: ["--int8", "--fp16"]}[precision]
    bounds = [f"{option}={value}" for option, value in shapes(config).items()]
    return [f"--onnx={onnx}", f"--saveEngine={plan}", *bounds, *flags, f"--timingCacheFile={timing}", "--skipInference"]


def build_plan(onnx: Path, config: ModelConfig, precision: Precision, graph_hash: str) -> tuple[Path, Target]:
    """Build the plan beside its ONNX graph; one that is there already for this TensorRT and GPU is kept.

    Raises:
        Unavailable: this machine has no trtexec or no GPU; the message says what to run where they are.
        ModelportError: trtexec failed.
    """
    program = shutil.which("trtexec") or (_IN_IMAGE if Path(_IN_IMAGE).exists() else None)
    target = None if program is None else _look(program)
    if program is None or target is None:
        what = "trtexec" if program is None else "NVIDIA GPU that answers"
        raise Unavailable(
            f"this machine has no {what}, and a plan is good only for the TensorRT and the GPU that built it",
            file=onnx,
            remedy=f"on the node that will serve it, in this folder: {in_image(onnx, config, precision)}",
        )
    plan = onnx.parent / target.plan_name(graph_hash, precision)
    if plan.exists():
        return plan, target
    partial = plan.with_suffix(".partial")
    timing = onnx.parent / f"timing-trt{target.tensorrt}-sm{target.capability.replace('.', '')}.cache"
    done = _run([program, *command(str(onnx), str(partial), str(timing), config, precision)], _BUILD_SECONDS)
    if done.returncode != 0 or not partial.exists():
        partial.unlink(missing_ok=True)
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
        raise ModelportError(
            f"trtexec failed:\n{tail}", file=onnx, remedy="the lines above are its own; fp32 needs no plan"
        )
    partial.rename(plan)
    return plan, target


def in_image(onnx: Path, config: ModelConfig, precision: Precision) -> str:
    """The same as a shell command in Triton's image, for a machine that has nothing but a GPU and its driver."""
    there = command(
        f"/plan/{onnx.name}", f"/plan/{onnx.stem}-{precision}.plan", "/plan/timing.cache", config, precision
    )
    docker = ["docker", "run", "--rm", "--gpus", "all", "--network", "none"]
    return f'{shlex.join(docker)} -v "$PWD:/plan" {shlex.join([IMAGE, _IN_IMAGE, *there])}'


def _look(program: str) -> Target | None:
    """What would build here; None without a GPU."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    gpus = _run([smi, "--query-gpu=name,compute_cap", "--format=csv,noheader"], _LOOK_SECONDS)
    first = gpus.stdout.strip().splitlines()[:1]
    if gpus.returncode != 0 or not first or "," not in first[0]:
        return None
    name, _, capability = first[0].rpartition(",")
    said = _run([program, "--help"], _LOOK_SECONDS)
    version = re.search(r"TensorRT[ .]v?([0-9][0-9.]*)", said.stdout + said.stderr)
    if version is None:
        raise ModelportError(
            "trtexec does not say its version", file=program, remedy="use the one of Triton's image, " + IMAGE
        )
    return Target(version[1].replace(".", ""), name.strip(), capability.strip())


def _run(arguments: Sequence[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(arguments, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{arguments[0]} did not end within {seconds:.0f} s") from None
    except OSError as error:
        raise Unavailable(f"{arguments[0]} cannot be run: {error}") from None
