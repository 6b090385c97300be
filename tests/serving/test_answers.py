"""What becomes of a model's outputs: the answer, its picture, and what is refused because it is none."""

import base64
import json

import numpy as np
import pytest

from modelport.contract import ClassSpec, Task
from modelport.imaging import Pixels, decode, draw_boxes, draw_caption
from modelport.serving import LoadedRelease
from modelport.serving.answers import Milliseconds, WrongOutputs, parse_prediction, render
from tests.serving import tiny_tasks as tiny

IMAGE = np.full((120, 160, 3), 90, np.uint8)
BOXES = np.array([[100, 70, 140, 110], [20.25, 30.5, 60.75, 90]], np.float32)
FOUND = {"boxes": BOXES, "scores": np.array([0.3, 0.9], np.float32), "labels": np.array([1, 0])}
MASK = np.zeros((120, 160), np.uint8)
MASK[90:] = 1
SHARE = np.array([0.25], np.float32)


def release(task: Task, classes: tuple[ClassSpec, ...] = tiny.CLASSES, **thresholds: float) -> LoadedRelease:
    return LoadedRelease(digest="a" * 64, triton_name="m", task=task, classes=classes, thresholds=thresholds)


def picture(answer) -> Pixels:
    return decode(base64.b64decode(answer.fields["overlay"]))


def test_boxes_come_with_their_numbers_and_are_seen_where_they_are() -> None:
    answer = render(Task.DETECT, FOUND, IMAGE, release(Task.DETECT), True)
    best, other = answer.fields["detections"]
    assert (best.label, best.class_id, best.box) == ("red", 0, (20.25, 30.5, 60.75, 90.0)), "the surest first"
    assert (np.float32(best.score), np.float32(other.score)) == (np.float32(0.9), np.float32(0.3))
    assert answer.summary == {"count": 2, "top_score": best.score}
    shown = picture(answer)
    assert shown.shape == IMAGE.shape
    assert (shown[60, 20] == (255, 0, 0)).all()
    assert (shown[89, 40] == (255, 0, 0)).all()
    assert (shown[90, 100] == (0, 0, 255)).all()
    assert (shown[60, 40] == 90).all(), "the inside of a box stays visible"
    assert (IMAGE == 90).all()
    nothing = {name: values[:0] for name, values in FOUND.items()}
    empty = render(Task.DETECT, nothing, IMAGE, release(Task.DETECT), True)
    assert (empty.fields["detections"], empty.summary) == ([], {"count": 0, "top_score": 0.0})
    assert np.array_equal(picture(empty), IMAGE)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (2000, 40)])
def test_boxes_and_captions_fit_into_any_image(size) -> None:
    image = np.zeros((*size, 3), np.uint8)
    boxes = np.array([[-50, -50, 5000, 5000], [3, 3, 3, 3]], np.float32)
    drawn = draw_boxes(image, boxes, captions=["a long name 0.50", ""], colors=[(255, 255, 255)] * 2)
    assert drawn.shape == draw_caption(image, "a long name 50%", (255, 255, 255)).shape == image.shape


@pytest.mark.parametrize(("thresholds", "unsure"), [({}, False), ({"unsure": 0.7}, False), ({"unsure": 0.8}, True)])
def test_an_answer_is_unsure_below_the_releases_threshold(thresholds, unsure) -> None:
    outputs = {"probabilities": np.array([0.25, 0.75], np.float32)}
    answer = render(Task.CLASSIFY, outputs, IMAGE, release(Task.CLASSIFY, **thresholds), True)
    assert (answer.fields["label"], answer.fields["class_id"], answer.fields["confidence"]) == ("blue", 1, 0.75)
    assert (answer.fields["unsure"], answer.fields["threshold"]) == (unsure, thresholds.get("unsure", 0.0))
    assert list(answer.fields["probabilities"].items()) == [("red", 0.25), ("blue", 0.75)]
    assert answer.summary == {"class_id": 1, "confidence": 0.75, "unsure": int(unsure)}
    shown = picture(answer)
    assert (shown[-1, -1] == (0, 0, 255)).all(), "the bar has the class's colour"
    assert np.array_equal(shown[:60], IMAGE[:60])


@pytest.mark.parametrize("task", list(Task))
def test_an_answers_json_reads_back_as_it_was(task) -> None:
    outputs = {"mask": MASK, "coverage": SHARE, **FOUND, "probabilities": np.array([0.1, 0.9], np.float32)}
    one = Milliseconds(decode=1, inference=2, total=3)
    asked = release(task)
    answer = render(task, outputs, IMAGE, asked, False).complete(
        model="m", release=asked, image=IMAGE, request_id="r", milliseconds=one
    )
    text = answer.model_dump_json(exclude_none=True)
    assert parse_prediction(text) == answer
    body = json.loads(text)
    assert (body["task"], body["width"], body["height"], body["precision"]) == (task, 160, 120, "fp32")
    assert "overlay" not in body


WRONG = {
    "a class that there is not": (Task.DETECT, {**FOUND, "labels": np.array([0, 2])}, "labels holds class 2"),
    "a negative class": (Task.DETECT, {**FOUND, "labels": np.array([0, -1])}, "labels holds class -1"),
    "fewer labels than boxes": (Task.DETECT, {**FOUND, "labels": np.array([0])}, r"labels has shape \[1\], not \[2\]"),
    "boxes of three": (Task.DETECT, {**FOUND, "boxes": BOXES[:, :3]}, r"shape \[2, 3\], not \[any, 4\]"),
    "a box that is nowhere": (Task.DETECT, {**FOUND, "boxes": BOXES * np.inf}, "boxes holds numbers that are none"),
    "a box inside out": (Task.DETECT, {**FOUND, "boxes": BOXES[:, [2, 1, 0, 3]]}, "right or lower edge"),
    "a score that is none": (Task.DETECT, {**FOUND, "scores": np.array([0.5, np.nan], np.float32)}, "scores holds"),
    "labels as numbers": (Task.DETECT, {**FOUND, "labels": FOUND["labels"] * 1.0}, "labels is float64, not int64"),
    "no output": (Task.CLASSIFY, {}, "probabilities is missing"),
    "not a number": (Task.CLASSIFY, {"probabilities": np.array([np.nan, 1], np.float32)}, "not between 0 and 1"),
    "logits": (Task.CLASSIFY, {"probabilities": np.array([0.9, 0.9], np.float32)}, "sum up to 1.8"),
    "a class too many": (Task.CLASSIFY, {"probabilities": np.ones(3, np.float32) / 3}, r"shape \[3\], not \[2\]"),
    "another image's mask": (Task.SEGMENT, {"mask": MASK[1:], "coverage": SHARE}, r"\[119, 160\], not \[120, 160\]"),
    "an unknown class": (Task.SEGMENT, {"mask": MASK + np.uint8(2), "coverage": SHARE}, "mask holds class 2"),
    "no coverage": (Task.SEGMENT, {"mask": MASK, "coverage": SHARE * np.nan}, "coverage holds"),
    "a share of another mask": (
        Task.SEGMENT,
        {"mask": MASK, "coverage": SHARE + np.float32(0.01)},
        r"coverage is 0\.260, but 0\.250 of the mask",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_answer_is_refused(case) -> None:
    task, outputs, message = WRONG[case]
    with pytest.raises(WrongOutputs, match=message):
        render(task, outputs, IMAGE, release(task), True)
