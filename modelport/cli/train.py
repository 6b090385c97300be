"""`modelport train`: from a model folder and a dataset to a registered release."""

import click


@click.command()
@click.argument("name")
@click.option("--data", "data_uri", required=True, help="Folder of the dataset, or s3://BUCKET/datasets/NAME.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of model.yaml: train.epochs=3."
)
@click.option("--workers", type=click.IntRange(1, 256), help="Training processes (default: train.workers.count).")
@click.option("--again", is_flag=True, help="Train anew even if the same training is finished.")
@click.option(
    "--checkpoints",
    type=click.Choice(["local", "s3"]),
    default="local",
    show_default=True,
    help="Where checkpoints are kept; s3 survives the loss of this machine.",
)
def train(
    name: str, data_uri: str, overrides: tuple[str, ...], workers: int | None, again: bool, checkpoints: str
) -> None:
    """Train model NAME, and register what comes of it as a release.

    Killed or interrupted, the same command goes on from the last checkpoint. The same training is never done twice:
    finished once, its release is only looked up.
    """
    from modelport.connection import Connection
    from modelport.contract import find_model
    from modelport.errors import Unavailable
    from modelport.release import build, keep_picture
    from modelport.training import Display, start

    folder = find_model(name)
    connection = Connection.load()
    with Display() as display:
        result = start(
            folder,
            data_uri,
            overrides=overrides,
            workers=workers,
            connection=connection,
            again=again,
            checkpoints_on_s3=checkpoints == "s3",
            progress=display,
        )
    metrics = "  ".join(f"{metric} {value:.4g}" for metric, value in result.metrics.items())
    click.echo(f"run       {result.run} ({len(result.epochs)} epochs, {result.seconds:.0f} s)")
    click.echo(f"best      epoch {result.best_epoch + 1}: {metrics}")
    release = build(folder, result, connection, result.spec)
    try:
        keep_picture(connection, result, release)
    except Unavailable as error:
        click.echo(f"note: {error}", err=True)
    version = "" if release.version is None else f" (version {release.version} in MLflow)"
    click.echo(f"release   {release.digest}{version}")
    click.echo(f"MLflow    {result.mlflow_url}")
    click.echo(f"next      modelport gate {name} --data {data_uri}")
