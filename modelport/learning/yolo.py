"""Ultralytics' YOLO11 as a network that `modelport.learning.detect` trains: its architecture and loss, nothing else.

Ultralytics is licensed under AGPL-3.0 (extra ``yolo``), and this is the only module that imports it. A model folder
that uses it is a work based on it, and so, by Ultralytics' own reading, are the weights that it trains: whoever offers
them, over a network too, must offer the whole source under AGPL-3.0, or have a commercial licence of theirs. Such a
folder says ``license: AGPL-3.0-only``. Folders that do not import this module are not touched by it.

Ultralytics' trainer, data loaders, exporter and settings are not used: data, loop, tracking and export are the
platform's. It is kept from the network, from installing packages, and from writing to the home folder.
"""

import os
import pickle
import re
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from modelport.errors import BadInput, Unavailable

BOX, CLASS, DISTRIBUTION = 7.5, 0.5, 1.5
"""Weights of the three parts of the loss, as Ultralytics has them: overlap of boxes, classes, distribution of edges."""
MOMENTUM = 0.1
"""Of the batch norms' running statistics. Ultralytics' 0.03 is made for long trainings: after some hundred steps the
statistics would still be those of the random weights."""
_QUIET = {
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    # It would take its own part in the synchronisation of several workers.
    "WORLD_SIZE": "1",
}


class Yolo11(nn.Module):
    """The network: [B, 3, S, S] in 0..1 -> in eval mode candidates [B, A, 4 + C], in training mode what `loss` takes.

    A candidate is centre x, centre y, width and height in pixels of the input, then a score in 0..1 for each class. A
    is the number of cells of grids at strides 8, 16 and 32: 2100 at S = 320.
    """

    def __init__(self, architecture: str, classes: int) -> None:
        """With random weights.

        Args:
            architecture: ``yolo11n``, or ``s``, ``m``, ``l``, ``x`` for larger ones.
            classes: Their number.

        Raises:
            BadInput: there is no such architecture.
            Unavailable: Ultralytics is not installed.
        """
        super().__init__()
        if re.fullmatch("yolo11[nslmx]", architecture) is None:
            raise BadInput(
                f"is {architecture!r}",
                key="train.parameters.architecture",
                remedy="use yolo11n (s, m, l, x are larger)",
            )
        self.body = _tasks().DetectionModel(f"{architecture}.yaml", ch=3, nc=classes, verbose=False)
        self.body.args = _tasks().IterableSimpleNamespace(box=BOX, cls=CLASS, dfl=DISTRIBUTION)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM
        # Numbers, because a tensor that is no buffer is nothing that can be exported.
        self._strides: list[float] = self._head.stride.tolist()
        self.train(True)

    def train(self, mode: bool = True) -> "Yolo11":
        """As of every module, but for the head, which always answers with what `loss` and `forward` decode."""
        super().train(mode)
        self._head.training = True
        return self

    def forward(self, batch: Tensor) -> Any:
        """Candidates [B, A, 4 + C] in eval mode."""
        raw: dict[str, Any] = self.body(batch)
        return raw if self.training else self._decoded(raw)

    def loss(self, raw: dict[str, Any], boxes: Sequence[Tensor]) -> Tensor:
        """Mean loss of a batch.

        Args:
            raw: What the network in training mode (it may be wrapped) gave for the batch.
            boxes: For each sample [n, 5]: x1, y1, x2, y2 in pixels of the input, class id.
        """
        raw = {name: _floats(value) for name, value in raw.items()}
        device = raw["boxes"].device
        side = raw["feats"][0].shape[-1] * 8
        rows = torch.cat(list(boxes)).to(device)
        batch = {
            "batch_idx": torch.repeat_interleave(torch.tensor([len(one) for one in boxes])).to(device),
            "cls": rows[:, 4:],
            "bboxes": torch.cat([(rows[:, :2] + rows[:, 2:4]) / 2, rows[:, 2:4] - rows[:, :2]], dim=1) / side,
        }
        parts, _ = self.body.init_criterion()(raw, batch)
        return parts.sum() / len(boxes)

    @property
    def _head(self) -> Any:
        return self.body.model[-1]

    def _decoded(self, raw: dict[str, Any]) -> Tensor:
        from ultralytics.utils.tal import make_anchors

        head = self._head
        places, strides = make_anchors(raw["feats"], self._strides, 0.5)
        centred = head.decode_bboxes(head.dfl(raw["boxes"]), places.T.unsqueeze(0)) * strides.T
        return torch.cat([centred, raw["scores"].sigmoid()], dim=1).transpose(1, 2)


def load_weights(network: Yolo11, file: Path) -> None:
    """Start from a checkpoint of Ultralytics (``yolo11n.pt``), or from a plain state dict of one.

    Nothing is downloaded, and no code of the file is run: of a pickled network only classes are made that Ultralytics
    lists as its own. What depends on the number of classes keeps its random values where that number is another.

    Raises:
        BadInput: there is no such file, it is none of these, or it is for another architecture.
    """
    key = "train.parameters.weights"
    if not file.is_file():
        raise BadInput(
            "there is no such file, and none is downloaded",
            file=file,
            key=key,
            remedy='put the checkpoint there on every machine that trains, or train from scratch with weights: ""',
        )
    try:
        given: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        try:
            with _environment():
                if not _tasks()._SafeLoad.SUPPORTED:
                    # Asked for a safe load, Ultralytics then does an unsafe one.
                    raise pickle.UnpicklingError("this version of torch cannot load it without running its code")
                given, _ = _tasks().torch_safe_load(str(file), safe_only=True)
        except Exception as error:
            raise BadInput(
                "is no checkpoint of Ultralytics, or holds objects of other classes than it lists",
                file=file,
                key=key,
                remedy="use a yolo11 one, such as yolo11n.pt, or a state dict",
            ) from error
    state = _state_dict(given)
    own = network.body.state_dict()
    fitting = {name: value.float() for name, value in state.items() if name in own and value.shape == own[name].shape}
    # All but the last layers of the classes, whose number is the folder's own, is there in a checkpoint that fits.
    missing = [name for name in own if name not in fitting and ".cv3." not in name]
    if missing:
        raise BadInput(
            f"does not fit this architecture: {len(missing)} of {len(own)} tensors are missing or of another shape, "
            f"{missing[0]} the first",
            file=file,
            key=key,
            remedy="set train.parameters.architecture to the checkpoint's",
        )
    network.body.load_state_dict(fitting, strict=False)


def _state_dict(given: Any) -> dict[str, Tensor]:
    """Tensors by name of what a checkpoint held: a network, or a dict with one, or a dict of tensors."""
    if isinstance(given, dict):
        given = given.get("ema") or given.get("model") or given
    state = given.state_dict() if isinstance(given, nn.Module) else given
    return (
        {name: value for name, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}
    )


def _floats(value: Any) -> Any:
    """float32, of a tensor or a list of them, as the loss needs it whatever the network computes in."""
    return [one.float() for one in value] if isinstance(value, list) else value.float()


def _tasks() -> Any:
    """Ultralytics' module of networks, imported once and quietly."""
    try:
        with _environment():
            from ultralytics.nn import tasks

            return tasks
    except ImportError as error:
        raise Unavailable(
            f"Ultralytics cannot be imported: {error}",
            remedy="install the extra: `pip install modelport[yolo]` (AGPL-3.0, see the README)",
        ) from error


@contextmanager
def _environment() -> Generator[None]:
    """What Ultralytics reads when it is imported; its settings file goes to a folder that is gone afterwards.

    Afterwards the variables are as before, those too that it sets itself.
    """
    with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
        before, opened = dict(os.environ), Image.open
        os.environ.update({**_QUIET, "YOLO_CONFIG_DIR": folder})
        try:
            yield
        finally:
            # Ultralytics puts one of its own in its place, which tries to install packages for what is no image.
            Image.open = opened
            for name in set(os.environ) - set(before):
                del os.environ[name]
            os.environ.update(before)
