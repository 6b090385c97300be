"""``modelport demo``: the whole life of a model on this machine."""

from pathlib import Path
from typing import NamedTuple

import click

from modelport.errors import ModelportError

_MODEL = "polyp_seg"


class _Short(NamedTuple):
    """What makes a short training of a model."""

    overrides: tuple[str, ...] = ()
    minimum: float | None = None
    """The gate's minimum; None: the model's own."""


_SHORT = {
    # Of the model's 48 sample images: more steps than with its own batches, and done in a minute or two on two cores.
    # The minimum says that the network learned something: calling every pixel of the 16 held-out images a polyp has a
    # Dice of 0.25.
    _MODEL: _Short(("train.epochs=24", "train.batch_size=8"), 0.3),
    # As with polyps, more steps; a coin reaches 0.5.
    "dry_wet": _Short(("train.epochs=20", "train.batch_size=4"), 0.6),
    # Drawn chests: a network that finds none of their blobs has learned nothing.
    "cxr_detect": _Short(("train.epochs=40",), 0.1),
}
"""By model; others train on their sample images as model.yaml says."""


@click.command()
@click.option("--model", default=_MODEL, show_default=True, help="Name of the model.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"Change a value of model.yaml further; the demo of {_MODEL} sets {' '.join(_SHORT[_MODEL].overrides)}.",
)
@click.option(
    "--minimum",
    type=float,
    help="The gate's minimum for the demo. [default: "
    + ", ".join(f"{short.minimum} for {name}" for name, short in _SHORT.items())
    + ", else the model's own]",
)
@click.option("--users", type=click.IntRange(1, 64), default=2, show_default=True, help="Users of the load test.")
@click.option("--load-seconds", type=click.FloatRange(1, 600), default=15, show_default=True, help="Length of it.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/demo"), show_default=True)
def demo(
    model: str, overrides: tuple[str, ...], minimum: float | None, users: int, load_seconds: float, out: Path
) -> None:
    """Train, release, gate, promote, serve and load-test a model on its sample images, and print what happened.

    The platform stays up afterwards. Exits with the failed step's code; report.json says which it was.
    """
    from modelport.local.demo import DemoSettings, run
    from modelport.project import project_root

    root = project_root()
    folder = root / out
    short = _SHORT.get(model, _Short())
    minimum = short.minimum if minimum is None else minimum
    settings = DemoSettings(model, (*short.overrides, *overrides), minimum, folder, users, load_seconds)
    try:
        finished = run(root, settings, click.echo)
    except ModelportError:
        click.echo(f"what was reached is in {folder}/report.html and report.json", err=True)
        raise
    click.echo()
    for what, found in [*finished.report.rows(), *finished.hints]:
        click.echo(f"{what:<10} {found}")
