"""`modelport predict`: ask a model about images."""

import base64
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from modelport.serving.predicting import SomePrediction, Unanswered

_SHORT = 12


@click.command()
@click.argument("name")
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option(
    "--via",
    type=click.Choice(["gateway", "triton", "release"]),
    help="Who is asked; `release`: its graphs, in this process. [default: the gateway if the connection has one]",
)
@click.option(
    "--release",
    metavar="DIGEST|v7|FOLDER",
    help="Digest of a release or its beginning, MLflow's version, or a folder. [default: what serves now]",
)
@click.option(
    "--overlay",
    is_flag=False,
    flag_value="",
    metavar="[DIR]",
    help="Also write IMAGE.overlay.png with the answer drawn in, into DIR or beside the image.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    help="Arithmetic of a release in this process; servers have their own. [default: what the release's model.yaml "
    "says, if the release carries it, else fp32]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: the gateway's, and the image.")
def predict(
    name: str,
    images: tuple[str, ...],
    via: str | None,
    release: str | None,
    overlay: str | None,
    precision: str | None,
    as_json: bool,
) -> None:
    """Ask model NAME about each IMAGE, a JPEG or PNG file.

    The answer is the same, whoever gives it. An image that cannot be read is reported, the others are still answered,
    and the exit code is 2.
    """
    from modelport.errors import BadInput
    from modelport.serving.predicting import Unanswered, Via, asking

    if overlay and (Path(overlay).is_file() or Path(overlay).suffix.lower() in (".jpg", ".jpeg", ".png")):
        # `--overlay IMAGE`: what follows the option is meant as the first image.
        images, overlay = (overlay, *images), ""
    if not images:
        raise BadInput("there is no image to ask about", key="IMAGE", remedy="name one or more files")
    pictures = None if overlay is None else _Pictures(Path(overlay) if overlay else None, [Path(i) for i in images])
    exit_code = 0
    with asking(name, via=None if via is None else Via(via), release=release, precision=precision) as ask:
        for image in images:
            try:
                answer = ask(_read(Path(image)), pictures is not None)
            except Unanswered as problem:
                exit_code = exit_code or problem.exit_code
                _print_problem(image, problem, as_json)
                continue
            click.echo(_as_json(image, answer) if as_json else _as_text(image, answer))
            if pictures is not None:
                written = pictures.write(Path(image), base64.b64decode(answer.overlay or ""))
                click.echo(f"  overlay  {written}", err=as_json)
    sys.exit(exit_code)


def _read(path: Path) -> bytes:
    from modelport.errors import BadInput
    from modelport.serving.predicting import Unanswered

    try:
        return path.read_bytes()
    except OSError as error:
        raise Unanswered("unreadable", f"cannot be read: {error.strerror}", BadInput.exit_code) from None


def _print_problem(image: str, problem: "Unanswered", as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"image": image, "reason": problem.reason, "message": problem.message}))
    click.echo(f"{image}: no answer ({problem.reason}): {problem.message}", err=True)


def _as_json(image: str, answer: "SomePrediction") -> str:
    return json.dumps({"image": image, **answer.model_dump(mode="json", exclude_none=True)})


def _as_text(image: str, answer: "SomePrediction") -> str:
    from modelport.serving.answers import ClassifyPrediction, DetectPrediction

    rows: list[str] = []
    if isinstance(answer, DetectPrediction):
        count = len(answer.detections)
        found = f"{count or 'no'} detection{'' if count == 1 else 's'}"
        width = max((len(detection.label) for detection in answer.detections), default=0)
        for detection in answer.detections:
            corners = " ".join(f"{value:8.1f}" for value in detection.box)
            rows.append(f"  {detection.label:<{width}}  {detection.score:.3f}  {corners}")
    elif isinstance(answer, ClassifyPrediction):
        found = f"{answer.label} {answer.confidence:.1%}"
        if answer.unsure:
            found += f", unsure (below {answer.threshold:.0%})"
    else:
        found = f"coverage {answer.coverage:.2%}"
    by = f"{answer.model} {answer.release[:_SHORT]} {answer.precision.value}, {answer.milliseconds.total:.0f} ms"
    return "\n".join([f"{image}: {found}  ({by})", *rows])


class _Pictures:
    """Writes overlays, never over an image that is asked about nor over another overlay of this run."""

    def __init__(self, folder: Path | None, images: Collection[Path]) -> None:
        self._folder = folder
        self._taken = {path.resolve() for path in images}

    def write(self, image: Path, png: bytes) -> Path:
        from modelport.errors import BadInput

        folder = image.parent if self._folder is None else self._folder
        path = folder / f"{image.stem}.overlay.png"
        number = 1
        while path.resolve() in self._taken:
            number += 1
            path = folder / f"{image.stem}.{number}.overlay.png"
        self._taken.add(path.resolve())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
        except OSError as error:
            raise BadInput(f"cannot be written: {error.strerror}", file=path, key="--overlay") from None
        return path
