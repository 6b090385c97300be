"""The gate's process from outside: what goes in, what comes out, and how it is run."""

import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from modelport import errors
from modelport.connection import Connection
from modelport.contract import ModelSpec
from modelport.errors import ModelportError
from modelport.promotion.evidence import Champion, ImageScore, Interval, LeakCheck


class Job(BaseModel):
    """What to evaluate."""

    model_config = ConfigDict(frozen=True)

    release: Path
    digest: str
    champion: Path | None
    champion_digest: str | None
    heldout: str
    """Folder or ``s3://`` URI of the dataset."""
    spec: ModelSpec
    """Of the promoter's checkout."""
    connection: Connection | None
    """With the promoter's identity; None where the held-out split is a local folder."""
    cache: Path


class Findings(BaseModel):
    """What was found."""

    model_config = ConfigDict(frozen=True)

    heldout_digest: str
    metrics: dict[str, float]
    """In fp32, as is everything beside `variants`."""
    variants: dict[str, dict[str, float]]
    """Metrics by further precision that the release carries."""
    interval: Interval
    champion: Champion | None
    golden_problems: tuple[str, ...]
    leak_check: LeakCheck
    versions: dict[str, str]
    truth: dict[str, int]
    """Examples of each class in the held-out split, as `Evidence.truth`."""
    images: tuple[ImageScore, ...]


class Failure(BaseModel):
    """An error, for the other side to raise."""

    kind: str
    message: str
    file: str | None = None
    key: str | None = None
    remedy: str | None = None


def run_isolated(job: Job, timeout_s: float) -> Findings:
    """Run a job in a process that can import neither torch nor the model's folder.

    Raises:
        ModelportError: what the process found wrong, as its own class of error.
    """
    # Isolated from the environment: no PYTHONPATH, no user site, not the current folder, which holds `models`.
    command = [sys.executable, "-I", "-m", "modelport.promotion.gate_process"]
    try:
        done = subprocess.run(command, input=_to_json(job), capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise ModelportError(
            f"the gate's process did not end within {timeout_s:.0f} s and was stopped",
            remedy="give it more time, or fewer held-out images",
        ) from None
    model = Findings if done.returncode == 0 else Failure
    try:
        answer = model.model_validate_json(done.stdout)
    except ValidationError:
        tail = done.stderr.decode(errors="replace").strip()[-2000:]
        raise ModelportError(f"the gate's process ended with {done.returncode}:\n{tail}") from None
    if isinstance(answer, Failure):
        kind = getattr(errors, answer.kind, ModelportError)
        raise kind(answer.message, file=answer.file, key=answer.key, remedy=answer.remedy)
    return answer


def _to_json(job: Job) -> bytes:
    return job.model_dump_json().encode()
