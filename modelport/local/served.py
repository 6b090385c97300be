"""Whether a release is really what answers: waited for, and held against the same graphs in this process."""

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from modelport.connection import Connection
from modelport.contract import TASKS, Task
from modelport.data import HeldOut
from modelport.errors import ModelportError, Unavailable
from modelport.imaging import Pixels, decode, encode_png
from modelport.loadtest import gateway_outputs
from modelport.local.report import ServingSection
from modelport.release import FP32, Release, Runtime, compare
from modelport.serving import ReplicaState

SERVED_WITHIN_S = 90.0
"""How long the platform may take from the promotion to answering with the new release."""


def await_served(model: str, digest: str, connection: Connection) -> str:
    """Wait until every replica serves the release and the gateway answers with it; its name in Triton."""
    deadline = time.monotonic() + SERVED_WITHIN_S
    with httpx.Client(timeout=5, trust_env=False) as client:
        while True:
            waiting_for, triton_name = _served(client, model, digest, connection)
            if not waiting_for:
                return triton_name
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"release {digest[:12]} is promoted, but not served after {SERVED_WITHIN_S:.0f} s: {waiting_for}",
                    remedy="see `modelport status`, `modelport local status` and `modelport local logs agent`",
                )
            time.sleep(0.2)


def _served(client: httpx.Client, model: str, digest: str, connection: Connection) -> tuple[str, str]:
    """What there still is to wait for (nothing: empty), and the release's name in Triton."""
    triton_name = ""
    try:
        for url in connection.agent_urls:
            answer = client.get(f"{url}/state").raise_for_status()
            state = ReplicaState.model_validate_json(answer.content).models.get(model)
            if state is None or state.serving != digest:
                return (state.error if state and state.error else f"the agent at {url} has not loaded it yet"), ""
            triton_name = next(loaded.triton_name for loaded in state.loaded if loaded.digest == digest)
        info = client.get(f"{connection.gateway_url}/v1/models/{model}", headers=_key(connection)).raise_for_status()
        if info.json()["release"] != digest:
            return "the gateway has not changed over yet", ""
    except httpx.HTTPError as error:
        return str(error), ""
    return "", triton_name


@dataclass(frozen=True)
class Answer:
    """A held-out image, and what the gateway made of it."""

    id: str
    index: int
    heldout: HeldOut
    shown: Pixels | None
    """The image with the answer drawn into it; None where it was not asked for."""


def look_at_answers(
    model: str, release: Release, triton_name: str, heldout: HeldOut, folder: Path, connection: Connection, shown: int
) -> tuple[ServingSection, list[Answer]]:
    """Ask the gateway about every held-out image, and hold its answers against the same graphs in this process.

    Args:
        folder: where the images lie, as users have them.
        shown: Of so many, from the first, the answer is wanted as a picture as well.

    Raises:
        ModelportError: an answer names another release, or is not what the graphs give.
    """
    runtimes: dict[str, Runtime] = {}
    task = release.manifest.task
    answers: list[Answer] = []
    found = _Found()
    with httpx.Client(base_url=connection.gateway_url, timeout=30, trust_env=False, headers=_key(connection)) as client:
        for index, name in enumerate(heldout.ids):
            path = folder / heldout.entry(index).path
            response = client.post(
                f"/v1/models/{model}/predict",
                files={"image": (path.name, _upload(path, heldout, index))},
                params={"overlay": index < shown},
            )
            if response.status_code != 200:
                raise ModelportError(f"the gateway answered {response.status_code}: {response.text[:300]}", file=path)
            body = response.json()
            named, outputs, precision = gateway_outputs(body)
            if named != release.digest:
                raise ModelportError(f"release {named[:12]} answered, not {release.digest[:12]}", file=path)
            tolerances = release.manifest.tolerances.get(precision)
            if tolerances is None:
                raise ModelportError(f"answered with {precision}, for which the release states no tolerance", file=path)
            # What a graphics processor computes in half precision, this one computes in single.
            graphs = precision if precision in release.manifest.precisions else FP32
            if graphs not in runtimes:
                runtimes[graphs] = Runtime(release, precision=graphs)
            computed = runtimes[graphs].predict(heldout.image(index))
            expected = {output.name: computed[output.name] for output in TASKS[task].outputs}
            problems = compare(outputs, expected, tolerances)
            if problems:
                raise ModelportError(f"the gateway's answer is wrong: {'; '.join(problems)}", file=path)
            found.add(task, outputs, expected)
            picture = decode(base64.b64decode(body["overlay"])) if index < shown else None
            answers.append(Answer(name, index, heldout, picture))
    section = ServingSection(
        gateway=connection.gateway_url,
        triton_http=connection.triton_http,
        triton_grpc=connection.triton_grpc,
        triton_name=triton_name,
        answered_by=release.digest,
        images=len(answers),
        differing_pixels=found.differing if task is Task.SEGMENT else None,
        pixels=found.pixels if task is Task.SEGMENT else None,
        largest_difference=None if task is Task.SEGMENT else found.largest,
    )
    return section, answers


@dataclass
class _Found:
    """How far the answers were from the same graphs in this process."""

    differing: int = 0
    pixels: int = 0
    largest: float = 0.0
    """Of any probability, or of the score of two detections at the same place in their order."""

    def add(self, task: Task, outputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
        if task is Task.SEGMENT:
            self.differing += int(np.count_nonzero(outputs["mask"] != expected["mask"]))
            self.pixels += int(expected["mask"].size)
            return
        name = "scores" if task is Task.DETECT else "probabilities"
        # One more or less at the threshold: it differs by what it is from none.
        size = max(len(outputs[name]), len(expected[name]))
        here, there = (np.pad(side[name], (0, size - len(side[name]))) for side in (outputs, expected))
        self.largest = max(self.largest, float(np.abs(here - there).max(initial=0.0)))


def _upload(path: Path, heldout: HeldOut, index: int) -> bytes:
    """The image's file; of datasets that are packed the same pixels."""
    return path.read_bytes() if path.is_file() else encode_png(heldout.image(index))


def _key(connection: Connection) -> dict[str, str]:
    return {"X-API-Key": connection.gateway_api_key or ""}
