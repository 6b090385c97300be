"""Boxes go where their images go, and what is served of candidates is what torch, ONNX Runtime and COCO agree on."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert, box_iou

from modelport.contract import Task
from modelport.errors import BadInput
from modelport.learning import Views
from modelport.learning.detect import (
    GRAIN,
    Postprocess,
    detection_pipeline,
    load,
    mean_average_precision,
    preprocess,
    view,
)
from modelport.learning.yolo import Yolo11, load_weights
from modelport.release.export import export
from modelport.release.pipeline import Pipeline
from modelport.release.replay import TOLERANCES
from modelport.release.runtime import Graph

SIZE = 64


def image_of(height: int, width: int) -> Tensor:
    return torch.zeros(height, width, 3, dtype=torch.uint8)


def candidates_of(*rows: list[float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32)


# --- what is served ---------------------------------------------------------------------------------------------------


def test_boxes_come_back_in_pixels_of_the_image_by_falling_score() -> None:
    """An image of 128 x 64 lies in the rows 16 to 48 of the square, at half its size."""
    found = Postprocess(SIZE, score=0.3)(
        candidates_of(
            [32, 32, 16, 8, 0.6, 0.1],  # in the middle
            [33, 32, 16, 8, 0.5, 0.4],  # the same object again, less sure
            [33, 32, 16, 8, 0.1, 0.9],  # another class at the same place
            [4, 18, 16, 8, 0.7, 0.0],  # over the left and upper rims
            [32, 8, 16, 8, 0.9, 0.0],  # in the grey above the image
            [50, 40, 4, 4, 0.2, 0.2],  # not sure enough
        ),
        image_of(64, 128),
    )
    boxes, scores, labels = found
    assert scores.tolist() == pytest.approx([0.9, 0.7, 0.6], abs=GRAIN / 2)
    assert labels.tolist() == [1, 0, 0]
    assert boxes.tolist() == [[50, 24, 82, 40], [0, 0, 24, 12], [48, 24, 80, 40]]


def test_nothing_found_is_an_answer() -> None:
    boxes, scores, labels = Postprocess(SIZE, score=0.5)(candidates_of([32, 32, 16, 8, 0.4, 0.4]), image_of(64, 128))
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)


def scattered(seed: int, places: int = 400, classes: int = 3) -> Tensor:
    """Candidates around some objects, many of which overlap, as a network gives them."""
    random = np.random.default_rng(seed)
    middle = random.uniform(0, SIZE, (8, 2))[random.integers(0, 8, places)] + random.normal(0, 3, (places, 2))
    sides = random.uniform(4, 30, (places, 2))
    return torch.tensor(np.concatenate([middle, sides, random.uniform(0, 1, (places, classes))], axis=1)[None]).float()


@pytest.mark.parametrize("seed", range(3))
def test_suppression_is_torchvision_s(seed: int) -> None:
    """On a square image of the network's own size nothing but the threshold and the suppression happens."""
    candidates = scattered(seed)
    found, scores, labels = Postprocess(SIZE, score=0.3, overlap=0.5, most=20)(candidates, image_of(SIZE, SIZE))
    best, classes = ((candidates[0, :, 4:] / GRAIN).round() * GRAIN).max(dim=1)
    boxes = box_convert(candidates[0, :, :4], "cxcywh", "xyxy").clamp(0, SIZE)
    kept = batched_nms(boxes, best, classes, 0.5)
    kept = kept[best[kept] >= 0.3][:20]
    assert len(kept) == 20
    torch.testing.assert_close(found, boxes[kept])
    assert torch.equal(scores, best[kept])
    assert torch.equal(labels, classes[kept])


def test_the_last_digits_of_scores_decide_nothing() -> None:
    """A network that has learned little gives one score everywhere; libraries differ in its last digits."""
    rows = torch.tensor([[x, y, 15.0, 15.0, 0.2, 0.1] for y in range(4, 60, 5) for x in range(4, 60, 5)])[None]
    postprocess = Postprocess(SIZE, score=0.1)
    boxes, _, _ = postprocess(rows, image_of(SIZE, SIZE))
    for seed in range(3):
        noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)) * 1e-6
        again, _, _ = postprocess(rows + noise, image_of(SIZE, SIZE))
        torch.testing.assert_close(again, boxes, atol=1e-4, rtol=0)


class Given(nn.Module):
    """A network whose answer depends on the brightness of its input: a dark one gives candidates that are not sure."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("candidates", scattered(0))

    def forward(self, batch: Tensor) -> Tensor:
        sure = batch.mean(dim=(1, 2, 3)).view(-1, 1, 1) > 0.3
        return torch.cat([self.candidates[..., :4] + 0 * sure, self.candidates[..., 4:] * sure], dim=2)


def test_exported_graphs_answer_as_torch_on_any_size_and_when_nothing_is_found() -> None:
    random = np.random.default_rng(0)
    golden = [random.integers(150, 256, (90, 140, 3), dtype=np.uint8), np.zeros((70, 50, 3), np.uint8)]
    steps = Pipeline(preprocess(SIZE), Given(), Postprocess(SIZE, score=0.3))
    made = export(steps, Task.DETECT, golden, TOLERANCES[Task.DETECT]["fp32"])
    assert [len(expected["scores"]) > 0 for expected in made.expected] == [True, False]
    graph = Graph(made.graphs["postprocess"])
    for height, width in ((SIZE, SIZE), (1, 300), (1203, 777), (37, 64)):
        image = image_of(height, width)
        for candidates in (scattered(1), scattered(2) * 0):
            wanted = steps.postprocess(candidates, image)
            found = graph.run({"candidates": candidates.numpy(), "image": image.numpy()})
            assert found["boxes"].shape == (len(wanted[1]), 4)
            assert np.allclose(found["boxes"], wanted[0].numpy(), atol=1e-3)
            assert np.array_equal(found["scores"], wanted[1].numpy())
            assert np.array_equal(found["labels"], wanted[2].numpy())


# --- images and boxes -------------------------------------------------------------------------------------------------


class OneImage:
    """A split of one image with a bright rectangle, and its box."""

    def __init__(self, height: int, width: int, box: tuple[int, int, int, int]) -> None:
        self.pixels = np.full((height, width, 3), 40, np.uint8)
        x1, y1, x2, y2 = box
        self.pixels[y1:y2, x1:x2] = 240
        self.rows = np.array([[*box, 1]], np.float32)

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> Any:
        return self.pixels

    def target(self, index: int) -> Any:
        return self.rows


@pytest.mark.parametrize("size", [(64, 64), (400, 210), (100, 333), (30, 20)])
def test_boxes_lie_on_their_objects_in_the_square_and_come_back(size: tuple[int, int]) -> None:
    height, width = size
    box = (width // 5, height // 4, width * 3 // 5, height * 2 // 3)
    samples = load(OneImage(height, width, box), preprocess(SIZE))  # pyright: ignore[reportArgumentType]
    (rows,) = samples.boxes
    assert box_around(samples.images[0].float() / 255) == pytest.approx(rows[0, :4].tolist(), abs=0.8)
    centred = box_convert(rows[:, :4], "xyxy", "cxcywh")
    candidates = torch.cat([centred, torch.tensor([[0.1, 0.9]])], dim=1)[None]
    boxes, _, labels = Postprocess(SIZE, score=0.5)(candidates, image_of(height, width))
    assert boxes[0].tolist() == pytest.approx(box, abs=0.01)
    assert labels.tolist() == [1]


def box_around(image: Tensor) -> list[float]:
    """Of what is bright in [3, S, S]: a pixel counts as far as it is bright, so that rims lie between pixels."""
    bright = ((image.mean(dim=0) - 0.46) / 0.2).clamp(0, 1)
    columns, rows = bright.amax(dim=0), bright.amax(dim=1)

    def ends(line: Tensor) -> tuple[float, float]:
        first, last = int(line.nonzero()[0]), int(line.nonzero()[-1])
        return first + 1 - float(line[first]), last + float(line[last])

    (left, right), (top, bottom) = ends(columns), ends(rows)
    return [left, top, right, bottom]


def one_rectangle(box: tuple[int, int, int, int]) -> tuple[Tensor, list[Tensor]]:
    pixels = torch.full((1, 3, SIZE, SIZE), 0.2)
    x1, y1, x2, y2 = box
    pixels[:, :, y1:y2, x1:x2] = 0.9
    return pixels, [torch.tensor([[*box, 1.0]])]


PLAIN = Views(brightness=0, contrast=0, saturation=0, cast=0, gamma=0)


@pytest.mark.parametrize("index", range(12))
def test_boxes_follow_the_views(index: int) -> None:
    pixels, boxes = one_rectangle((18, 24, 44, 36))
    moved, rows = view(pixels, boxes, replace(PLAIN, turn=math.pi), seed=0, epoch=0, indices=[index])
    (row,) = rows[0]
    assert box_around(moved[0]) == pytest.approx(row[:4].tolist(), abs=1.2)
    assert row[4] == 1
    assert box_iou(row[None, :4], boxes[0][:, :4]).item() < 0.97, "the view did nothing"


def test_a_box_that_leaves_the_view_is_cut_or_gone() -> None:
    """Shifts of up to 60 % of the side: what is left of an object must be enough to be asked for."""
    pixels, boxes = one_rectangle((2, 2, 22, 22))
    views = replace(PLAIN, turn=0, mirror=False, zoom=1, stretch=1, shift=0.6)
    kept = [
        rows[0] for index in range(60) for rows in [view(pixels, boxes, views, seed=0, epoch=0, indices=[index])[1]]
    ]
    areas = [float((row[0, 2] - row[0, 0]) * (row[0, 3] - row[0, 1])) for row in kept if len(row)]
    assert 0 < sum(len(row) == 0 for row in kept) < 60
    assert all(0.3 * 400 < area <= 400.1 for area in areas)
    assert min(areas) < 300 < max(areas)
    assert all(row.min() >= 0 and row[:, :4].max() <= SIZE for row in kept if len(row))


def test_views_depend_on_seed_epoch_and_index_only() -> None:
    pixels, boxes = one_rectangle((18, 24, 44, 36))
    pixels, boxes = pixels.repeat(2, 1, 1, 1), boxes * 2
    first = view(pixels, boxes, Views(), seed=1, epoch=2, indices=[7, 3])
    torch.manual_seed(123)
    np.random.seed(123)
    second = view(pixels, boxes, Views(), seed=1, epoch=2, indices=[3, 7])
    assert torch.equal(first[0], second[0].flip(0))
    assert torch.equal(first[1][0], second[1][1])
    for changed in ({"seed": 2}, {"epoch": 3}, {"indices": [8, 4]}):
        other = view(pixels, boxes, Views(), **({"seed": 1, "epoch": 2, "indices": [7, 3]} | changed))
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1][0], other[1][0])


# --- how good it is ---------------------------------------------------------------------------------------------------


def found_of(*rows: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    table = torch.tensor(rows).reshape(-1, 6)
    return table[:, :4], table[:, 4], table[:, 5].long()


def test_mean_average_precision_of_hand_cases() -> None:
    truth = [np.array([[0, 0, 10, 10, 0]], np.float32), np.array([[20, 20, 40, 40, 0]], np.float32)]
    first, second = [0.0, 0.0, 10.0, 10.0, 0.9, 0.0], [20.0, 20.0, 40.0, 40.0, 0.8, 0.0]
    both = [found_of(first), found_of(second)]
    assert mean_average_precision(both, truth, 2) == {"map50": 1, "map50_95": 1}
    # One of two found, both claims of it true: precision 1 up to a recall of a half, of 101 recalls 51.
    assert mean_average_precision([found_of(first), found_of()], truth, 2)["map50"] == pytest.approx(51 / 101)
    # A surer false one before it: precision a half up to there.
    wrong = [50.0, 50.0, 60.0, 60.0, 0.95, 0.0]
    assert mean_average_precision([found_of(wrong, first), found_of()], truth, 2)["map50"] == pytest.approx(51 / 202)
    # 7 of 10 columns: an overlap of 0.7 counts up to that threshold, 5 of 10.
    part = [0.0, 0.0, 7.0, 10.0, 0.9, 0.0]
    half = mean_average_precision([found_of(part)], truth[:1], 2)
    assert half == {"map50": pytest.approx(1), "map50_95": pytest.approx(0.5)}
    assert mean_average_precision([found_of(), found_of()], truth, 2) == {"map50": 0, "map50_95": 0}
    other_class = [[*first[:5], 1.0]]
    assert mean_average_precision([found_of(*other_class)], truth[:1], 2) == {"map50": 0, "map50_95": 0}


# --- Ultralytics' network ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def yolo() -> Yolo11:
    torch.manual_seed(0)
    return Yolo11("yolo11n", classes=2)


def test_candidates_are_ultralytics_own(yolo: Yolo11) -> None:
    batch = torch.rand(2, 3, SIZE, SIZE)
    yolo.eval()
    with torch.inference_mode():
        candidates = yolo(batch)
        yolo.body.model[-1].training = False
        theirs = yolo.body(batch)[0]
    yolo.train()
    assert candidates.shape == (2, 84, 6)
    torch.testing.assert_close(candidates, theirs.transpose(1, 2))


def test_its_loss_falls_with_the_distance_to_the_truth(yolo: Yolo11) -> None:
    """Of the raw answers the loss must be lower where they say what is asked for; images without boxes count too."""
    batch = torch.rand(2, 3, SIZE, SIZE)
    yolo.train()
    truth = [torch.tensor([[8.0, 8.0, 40.0, 40.0, 1.0]]), torch.zeros(0, 5)]
    optimizer = torch.optim.AdamW(yolo.parameters(), 0.002)
    losses: list[float] = []
    for _ in range(15):
        loss = yolo.loss(yolo(batch), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    nothing = yolo.loss(yolo(batch), [torch.zeros(0, 5)] * 2)
    assert math.isfinite(nothing.item())


def test_weights_of_a_checkpoint_are_taken_and_wrong_ones_named(yolo: Yolo11, tmp_path: Path) -> None:
    """As Ultralytics saves them, with its own classes pickled, and as a plain state dict."""
    of_three = Yolo11("yolo11n", classes=3)
    torch.save({"model": of_three.body, "ema": None}, tmp_path / "pickled.pt")
    torch.save(of_three.body.state_dict(), tmp_path / "plain.pt")
    for name in ("pickled.pt", "plain.pt"):
        fresh = Yolo11("yolo11n", classes=2)
        load_weights(fresh, tmp_path / name)
        wanted = of_three.body.state_dict()
        taken = [key for key, value in fresh.body.state_dict().items() if torch.equal(value, wanted[key])]
        assert len(taken) >= len(wanted) - 2 * 3
    with pytest.raises(BadInput, match="no such file, and none is downloaded"):
        load_weights(yolo, tmp_path / "yolo11n.pt")
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(BadInput, match="is no checkpoint of Ultralytics"):
        load_weights(yolo, tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(BadInput, match="does not fit this architecture"):
        load_weights(yolo, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("not found")
    with pytest.raises(BadInput, match="is no checkpoint of Ultralytics"):
        load_weights(yolo, tmp_path / "text.pt")


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("echo code of the file ran >&2; exit 1",)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(BadInput, match=r"is 'yolo12x'.*"):
        Yolo11("yolo12x", classes=2)


def test_the_folder_s_pipeline_is_exported_with_a_batch_of_any_size(yolo: Yolo11, tmp_path: Path) -> None:
    torch.save({"average": yolo.state_dict(), "metrics": {}}, tmp_path / "checkpoint.pt")
    steps = detection_pipeline(tmp_path, Yolo11("yolo11n", classes=2), size=SIZE, score=0.01)
    random = np.random.default_rng(0)
    golden = [random.integers(0, 256, (80, 60, 3), dtype=np.uint8) for _ in range(2)]
    graph = Graph(export(steps, Task.DETECT, golden, TOLERANCES[Task.DETECT]["fp32"]).graphs["network"])
    batch = torch.rand(5, 3, SIZE, SIZE)
    with torch.inference_mode():
        wanted = steps.network(batch)
    assert np.abs(graph.run({"input": batch.numpy()})["candidates"] - wanted.numpy()).max() < 1e-2


def test_ultralytics_writes_nothing_and_changes_no_variable(tmp_path: Path) -> None:
    """In a process of its own, with an empty home folder."""
    import os
    import subprocess
    import sys

    script = (
        "import os, sys\n"
        "from modelport.learning.yolo import Yolo11\n"
        "assert 'ultralytics' not in sys.modules\n"
        "before = dict(os.environ)\n"
        "Yolo11('yolo11n', 2)\n"
        "from ultralytics.utils import ONLINE, AUTOINSTALL\n"
        "assert not ONLINE and not AUTOINSTALL and dict(os.environ) == before\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_CONFIG_DIR", "OMP_NUM_THREADS"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Ultralytics" not in done.stdout + done.stderr
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []
