"""Reading the gateway's JSON back to tensors: exact, and every wrong answer is found, whatever the task."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from modelport.contract import TASKS, Task
from modelport.errors import BadInput
from modelport.imaging import decode
from modelport.loadtest import Golden, gateway_outputs
from modelport.release import Release
from modelport.serving import LoadedRelease
from modelport.serving.answers import Milliseconds, render
from tests.serving import tiny_tasks as tiny

KNOBS = {Task.DETECT: 0.3, Task.CLASSIFY: 4.0}


def published(task: Task, folder: Path, **more: float) -> Path:
    manifest, files = tiny.release(task, "m", KNOBS[task], {"unsure": 0.7, **more})
    for path, data in {**files, "manifest.json": manifest.to_bytes()}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def golden(task: Task, folder: Path) -> Golden:
    return Golden.load([published(task, folder)])


def said(release: Release, data: bytes) -> dict:
    """What a gateway says of the image, as JSON."""
    task, image = release.manifest.task, decode(data)
    loaded = LoadedRelease(
        digest=release.digest,
        triton_name="m",
        task=task,
        classes=release.manifest.classes,
        thresholds=release.manifest.thresholds,
    )
    answer = render(task, tiny.answer(task, image, KNOBS[task]), image, loaded, False)
    times = Milliseconds(decode=1, inference=1, total=2)
    body = answer.complete(model="m", release=loaded, image=image, request_id="r", milliseconds=times)
    return json.loads(body.model_dump_json(exclude_none=True))


WRONG = {
    Task.DETECT: {
        "a moved box": lambda body: body["detections"][0]["box"].__setitem__(0, body["detections"][0]["box"][0] + 9),
        "a lost box": lambda body: body["detections"].pop(),
        "another label": lambda body: body["detections"][0].update(label="blue", class_id=1),
        "a name that is not its class's": lambda body: body["detections"][0].update(label="blue"),
        "a class that there is not": lambda body: body["detections"][0].update(class_id=7),
        "another score": lambda body: body["detections"][0].update(score=0.9),
    },
    Task.CLASSIFY: {
        "other probabilities": lambda body: body.update(probabilities={"red": 0.75, "blue": 0.25}, confidence=0.75),
        "another label": lambda body: body.update(label="blue", class_id=1),
        "a name that is not its class's": lambda body: body.update(label="blue"),
        "another confidence": lambda body: body.update(confidence=0.99),
        "sure all of a sudden": lambda body: body.update(unsure=False),
    },
}


@pytest.mark.parametrize("task", list(WRONG))
def test_every_number_survives_the_json_and_every_wrong_answer_is_found(task, tmp_path) -> None:
    asked = golden(task, tmp_path)
    (question,), (release,) = asked.questions, asked.releases.values()
    right = said(release, question.data)
    digest, outputs, precision = gateway_outputs(right)
    for tensor in TASKS[task].outputs:
        expected = question.expected[release.digest][tensor.name]
        assert outputs[tensor.name].dtype == expected.dtype
        assert np.array_equal(outputs[tensor.name], expected), tensor.name
    assert asked.problem(question, outputs, digest, precision) == ""

    for case, change in WRONG[task].items():
        wrong = json.loads(json.dumps(right))
        change(wrong)
        try:
            digest, outputs, precision = gateway_outputs(wrong)
        except (ValueError, LookupError):
            continue  # the users count that as failed, too
        assert asked.problem(question, outputs, digest, precision), case
    assert "states no tolerance" in asked.problem(question, outputs, digest, "int8")


def test_an_image_without_objects_is_an_answer(tmp_path) -> None:
    release = next(iter(golden(Task.DETECT, tmp_path).releases.values()))
    black = tiny.encode_png(np.zeros((20, 30, 3), np.uint8))
    outputs = gateway_outputs(said(release, black)).outputs
    assert {name: values.shape for name, values in outputs.items()} == {"boxes": (0, 4), "scores": (0,), "labels": (0,)}


def test_a_release_that_is_promoted_meanwhile_is_judged_by_its_own_golden_files(tmp_path: Path) -> None:
    first = published(Task.CLASSIFY, tmp_path / "first")
    second = Release.open(published(Task.CLASSIFY, tmp_path / "second", other=0.5))
    asked: list[str] = []

    def fetch(digest: str) -> Release:
        asked.append(digest)
        if digest != second.digest:
            raise BadInput("no such release")
        return second

    closed, following = Golden.load([first]), Golden.load([first], fetch)
    (question,) = following.questions
    right = question.expected[next(iter(following.releases))]
    assert "does not expect" in closed.problem(closed.questions[0], right, second.digest)
    assert following.problem(question, right, second.digest) == ""
    assert following.problem(question, {"probabilities": np.asarray([0.5, 0.5], np.float32)}, second.digest)
    assert asked == [second.digest], "once"
    assert "cannot be read: no such release" in following.problem(question, right, "f" * 64)


def test_a_new_release_is_read_once_however_many_answers_name_it_at_the_same_time(tmp_path: Path) -> None:
    first = published(Task.CLASSIFY, tmp_path / "first")
    second = Release.open(published(Task.CLASSIFY, tmp_path / "second", other=0.5))
    everybody, asked = threading.Barrier(8, timeout=30), list[str]()

    def fetch(digest: str) -> Release:
        asked.append(digest)
        return second

    golden = Golden.load([first], fetch)
    (question,) = golden.questions
    right = question.expected[next(iter(golden.releases))]
    found: list[str] = []

    def judge() -> None:
        everybody.wait()
        found.append(golden.problem(question, right, second.digest))

    threads = [threading.Thread(target=judge) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [""] * 8
    assert len(asked) == 1
