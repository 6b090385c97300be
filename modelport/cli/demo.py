"""``modelport demo``: the whole life of a model on this machine."""

from pathlib import Path

import click

from modelport.errors import ModelportError

_MODEL = "polyp_seg"
_SHORT = ("train.epochs=24", "train.batch_size=8")
"""Of the model's 48 sample images: more steps than with its own batches, and done in a minute or two on two cores."""
_MINIMUM = 0.3
"""Says that the network learned something: calling every pixel of the 16 held-out images a polyp has a Dice of 0.25."""


@click.command()
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"Change a value of model.yaml further; the demo sets {' '.join(_SHORT)}.",
)
@click.option("--minimum", type=float, default=_MINIMUM, show_default=True, help="The gate's minimum for the demo.")
@click.option("--users", type=click.IntRange(1, 64), default=2, show_default=True, help="Users of the load test.")
@click.option("--load-seconds", type=click.FloatRange(1, 600), default=15, show_default=True, help="Length of it.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/demo"), show_default=True)
def demo(overrides: tuple[str, ...], minimum: float, users: int, load_seconds: float, out: Path) -> None:
    """Train, release, gate, promote, serve and load-test polyp_seg on its sample images, and print what happened.

    The platform stays up afterwards. Exits with the failed step's code; report.json says which it was.
    """
    from modelport.local.demo import DemoSettings, run
    from modelport.project import project_root

    root = project_root()
    folder = root / out
    settings = DemoSettings(_MODEL, (*_SHORT, *overrides), minimum, folder, users, load_seconds)
    try:
        finished = run(root, settings, click.echo)
    except ModelportError:
        click.echo(f"what was reached is in {folder}/report.html and report.json", err=True)
        raise
    click.echo()
    for what, found in [*finished.report.rows(), *finished.hints]:
        click.echo(f"{what:<10} {found}")
