"""Loading folders, showing progress, the picture, and what makes two trainings the same."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_project import MODEL_YAML, write_project

from modelport.contract import ClassSpec, Task, apply_overrides, parse_spec
from modelport.errors import BadInput
from modelport.imaging import decode
from modelport.training import Display, load_entry, picture
from modelport.training.events import EpochDone, Note, Ready, Started, Stepped
from modelport.training.identity import run_key
from modelport.training.journal import EpochRecord
from modelport.training.pictures import beside, draw_outputs, draw_truth


def test_files_of_a_folder_import_each_other(tmp_path: Path):
    folder = write_project(tmp_path) / "models" / "tiny"
    module = load_entry(folder, "train")
    assert module.__name__ == "modelport_model_tiny.train"
    assert module.network.__module__ == "modelport_model_tiny.network"
    assert load_entry(folder, "train") is module


def test_two_folders_of_one_name_are_apart(tmp_path: Path):
    for number in (1, 2):
        folder = tmp_path / str(number) / "same"
        folder.mkdir(parents=True)
        (folder / "value.py").write_text(f"VALUE = {number}\n")
        (folder / "train.py").write_text("from .value import VALUE\n")
    for number in (1, 2, 1):
        assert number == load_entry(tmp_path / str(number) / "same", "train").VALUE


def test_what_is_missing_is_named(tmp_path: Path):
    folder = tmp_path / "broken"
    folder.mkdir()
    with pytest.raises(BadInput) as caught:
        load_entry(folder, "train")
    assert caught.value.file == str(folder / "train.py")
    (folder / "train.py").write_text("import network\n")
    with pytest.raises(BadInput, match="'network', which is not installed") as caught:
        load_entry(folder, "train")
    assert "from .network import" in (caught.value.remedy or "")


def test_only_what_is_learned_makes_another_training():
    spec = parse_spec(MODEL_YAML)

    def key(*overrides: str, code: str = "c", data: str = "d") -> str:
        changed = apply_overrides(spec, overrides)
        return run_key(changed, code, data, changed.train.workers.count)

    assert key() == key("gate.minimum=0.7", "serve.replicas=3", "train.time_limit=9h")
    others = {
        key("train.epochs=7"),
        key("train.seed=4"),
        key("train.workers.count=2"),
        key("data.selection_fraction=0.3"),
        key(code="other"),
        key(data="other"),
    }
    assert len({key(), *others}) == 7


def show(*, terminal: bool) -> str:
    stream = io.StringIO()
    record = EpochRecord(
        epoch=0, metrics={"dice": 0.51234, "loss": 0.7}, order="", examples=13, seconds=2.5, time_ms=0, attempt=1
    )
    counts = {"train": 13, "selection": 3, "heldout": 4}
    with Display(Console(file=stream, force_terminal=terminal, width=100, highlight=False)) as display:
        display(Started("abc", 0, 6, counts, 1, "/state/[runs]/abc"))
        display(Ready(threads=2))
        display(Stepped(2, 4, {"loss": 0.9}))
        display(EpochDone(record, best=True))
        display(Note("something [else] happened"))
    return stream.getvalue()


def test_a_log_gets_plain_lines():
    assert show(terminal=False).splitlines() == [
        "run abc; checkpoints in /state/[runs]/abc",
        "examples: 13 train, 3 selection, 4 heldout",
        "1 worker(s) with 2 thread(s) start",
        "epoch 1/6  dice 0.5123  loss 0.7  2.5 s  best so far",
        "note: something [else] happened",
    ]


def test_a_terminal_gets_a_bar_and_keeps_the_lines():
    shown = show(terminal=True)
    assert "━" in shown
    assert "epoch 1/6  dice 0.5123  loss 0.7  2.5 s  best so far" in shown
    assert "note: something [else] happened" in shown


def test_predictions_beside_truth():
    image = np.full((20, 30, 3), 128, np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10] = 1
    png = picture([image, image], [mask, mask], [mask, 1 - mask], colors=[(0, 0, 0), (0, 255, 0)], titles=["a", "b"])
    pixels = decode(png)
    assert pixels.shape[1] == 900
    greenish = (pixels[..., 1].astype(int) - pixels[..., 0] > 50).sum()
    assert greenish > 1000


TRUTHS = {
    Task.DETECT: (
        np.array([[5, 4, 25, 16, 1]], np.float32),
        {"boxes": np.array([[6, 4, 24, 16]], np.float32), "scores": np.ones(1, np.float32), "labels": np.array([1])},
    ),
    Task.CLASSIFY: (np.array(1), {"probabilities": np.array([0.2, 0.8], np.float32)}),
    Task.SEGMENT: (np.ones((20, 30), np.uint8), {"mask": np.ones((20, 30), np.uint8)}),
}


@pytest.mark.parametrize("task", list(TRUTHS))
def test_truth_and_outputs_of_every_task_are_drawn_in_their_colours(task):
    image = np.full((20, 30, 3), 128, np.uint8)
    classes = (ClassSpec(name="a", color="#ff0000"), ClassSpec(name="b", color="#00ff00"))
    truth, outputs = TRUTHS[task]
    for drawn in (draw_truth(task, image, truth, classes), draw_outputs(task, image, outputs, classes)):
        assert drawn.shape == image.shape
        assert (drawn[..., 1].astype(int) - drawn[..., 0] > 50).any()
        assert not (drawn[..., 0].astype(int) - drawn[..., 1] > 50).any()
    assert (image == 128).all()
    assert beside([(image, image, image)], ["one"]).startswith(b"\x89PNG")
    if task is Task.DETECT:
        assert np.array_equal(draw_truth(task, image, truth[:0], classes), image)
