"""Whether a release is really what answers: waited for, and held against the same graphs in this process."""

import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from modelport.connection import Connection
from modelport.contract import TASKS
from modelport.data import HeldOut
from modelport.errors import ModelportError, Unavailable
from modelport.imaging import Mask
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
    mask: Mask


def look_at_answers(
    model: str, release: Release, triton_name: str, heldout: HeldOut, folder: Path, connection: Connection
) -> tuple[ServingSection, list[Answer]]:
    """Ask the gateway about every held-out image, and hold its answers against the same graphs in this process.

    Raises:
        ModelportError: an answer names another release, or is not what the graphs give.
    """
    runtime = Runtime(release)
    tolerances = release.manifest.tolerances[FP32]
    answers: list[Answer] = []
    differing = pixels = 0
    named = release.digest
    with httpx.Client(base_url=connection.gateway_url, timeout=30, trust_env=False, headers=_key(connection)) as client:
        for index, name in enumerate(heldout.ids):
            path = folder / heldout.entry(index).path
            response = client.post(f"/v1/models/{model}/predict", files={"image": (path.name, path.read_bytes())})
            if response.status_code != 200:
                raise ModelportError(f"the gateway answered {response.status_code}: {response.text[:300]}", file=path)
            named, outputs = gateway_outputs(response.json())
            if named != release.digest:
                raise ModelportError(f"release {named[:12]} answered, not {release.digest[:12]}", file=path)
            computed = runtime.predict(heldout.image(index))
            expected = {output.name: computed[output.name] for output in TASKS[release.manifest.task].outputs}
            problems = compare(outputs, expected, tolerances)
            if problems:
                raise ModelportError(f"the gateway's answer is wrong: {'; '.join(problems)}", file=path)
            differing += int(np.count_nonzero(outputs["mask"] != expected["mask"]))
            pixels += int(expected["mask"].size)
            answers.append(Answer(name, index, heldout, outputs["mask"]))
    section = ServingSection(
        gateway=connection.gateway_url,
        triton_http=connection.triton_http,
        triton_grpc=connection.triton_grpc,
        triton_name=triton_name,
        answered_by=named,
        images=len(answers),
        differing_pixels=differing,
        pixels=pixels,
    )
    return section, answers


def _key(connection: Connection) -> dict[str, str]:
    return {"X-API-Key": connection.gateway_api_key or ""}
