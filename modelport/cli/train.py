"""`modelport train` and `modelport submit`: from a model folder and a dataset to a registered release."""

import re
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from modelport.connection import Connection
    from modelport.contract import ModelFolder
    from modelport.training.submit import Command

_SHOWN = 8000
"""Characters of each log that are shown of a failed training whose files do not stay."""


@click.command()
@click.argument("name")
@click.option(
    "--data",
    "data_uri",
    help="Folder of the dataset, or s3://BUCKET/datasets/NAME [default: the one that model.yaml names, on S3].",
)
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
    help="Where checkpoints are kept; s3 survives the loss of this machine. In a cluster always s3.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Train what this packed bundle holds, instead of a folder of a checkout.",
)
@click.option("--run", hidden=True, help="Name of the run; refuses to train anything else than what it was named for.")
def train(
    name: str,
    data_uri: str | None,
    overrides: tuple[str, ...],
    workers: int | None,
    again: bool,
    checkpoints: str,
    bundle: Path | None,
    run: str | None,
) -> None:
    """Train model NAME, and register what comes of it as a release.

    Killed or interrupted, the same command goes on from the last checkpoint. The same training is never done twice:
    finished once, its release is only looked up.

    With `--stack` it trains in that cluster what this checkout holds, and follows it; Ctrl-C lets it go on alone.
    """
    from modelport.connection import Connection, Role
    from modelport.data import dataset_uri
    from modelport.errors import Refused, Unavailable
    from modelport.objects import ObjectStore
    from modelport.release import build, keep_picture
    from modelport.training import Display, start
    from modelport.training.memory import remember
    from modelport.training.patience import Patience, patience_seconds

    # Whoever ends a pod sends this; as an exit it lets the training say in MLflow that it was killed.
    signal.signal(signal.SIGTERM, _exit)
    with _folder(name, bundle) as folder:
        connection = Connection.load()
        if connection.cluster is not None:
            _in_cluster(folder, connection, _for_cluster(data_uri, overrides, workers), again)
            return
        data_uri = data_uri or dataset_uri(connection.bucket, folder.spec.data.name)
        with Display() as display:
            result = start(
                folder,
                data_uri,
                overrides=overrides,
                workers=workers,
                connection=connection,
                again=again,
                run=run,
                checkpoints_on_s3=checkpoints == "s3",
                progress=display,
            )
        metrics = "  ".join(f"{metric} {value:.4g}" for metric, value in result.metrics.items())
        click.echo(f"run       {result.run} ({len(result.epochs)} epochs, {result.seconds:.0f} s)")
        click.echo(f"best      epoch {result.best_epoch + 1}: {metrics}")
        patience = Patience(patience_seconds(), lambda text: click.echo(f"note: {text}", err=True))
        release = patience(lambda: build(folder, result, connection, result.spec))
        try:
            keep_picture(connection, result, release)
        except Unavailable as error:
            click.echo(f"note: {error}", err=True)
        if checkpoints == "s3":
            store = ObjectStore.connect(connection, Role.TRAINER)
            try:
                patience(lambda: remember(store, name, result.run_key, result.run))
            except (Refused, Unavailable) as error:
                click.echo(f"note: when its checkpoints have expired, this training is forgotten: {error}", err=True)
    version = "" if release.version is None else f" (version {release.version} in MLflow)"
    click.echo(f"release   {release.digest}{version}")
    click.echo(f"MLflow    {result.mlflow_url}")
    click.echo(f"next      modelport gate {name} --data {data_uri}")


@click.command()
@click.argument("name")
@click.option(
    "--template",
    type=click.Path(path_type=Path),
    required=True,
    help="JSON of the RayJob, complete but for its name; its entrypoint is the `modelport train` command.",
)
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="The packed model folder.")
@click.option(
    "--if-new/--again",
    default=True,
    show_default=True,
    help="Only if this code was not trained on this data yet; or go on with what failed, or train once more.",
)
@click.option("--namespace", help="Where the RayJob is created [default: the template's, then this pod's own].")
def submit(name: str, template: Path, bundle: Path, if_new: bool, namespace: str | None) -> None:
    """Submit the training of model NAME to the cluster, at most once for each pair of code and data."""
    from modelport.connection import Connection
    from modelport.errors import BadInput
    from modelport.training import rayjob
    from modelport.training.submit import ClusterRayJobs
    from modelport.training.submit import submit as submit_training

    try:
        text = template.read_text()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=template, key="--template") from None
    job = rayjob.read_template(text, str(template))
    result = submit_training(
        name,
        job,
        bundle,
        _command(rayjob.train_arguments(job, str(template)), name, template),
        connection=Connection.load(),
        rayjobs=ClusterRayJobs(namespace, job),
        again=not if_new,
    )
    click.echo(result.message)


def _in_cluster(folder: "ModelFolder", connection: "Connection", given: list[str], again: bool) -> None:
    from modelport import remote

    name = folder.name
    done = remote.train(
        name,
        folder.bundle().to_bytes(),
        given,
        lambda arguments, place: _command(list(arguments), name, place),
        connection=connection,
        again=again,
        tell=click.echo,
    )
    click.echo(done.message)
    if done.rayjob is not None:
        click.echo(f"next      modelport gate {name}")


def _for_cluster(data_uri: str | None, overrides: tuple[str, ...], workers: int | None) -> list[str]:
    """What is said beyond the template of a stack, as it says it.

    Raises:
        BadInput: it is nothing that can be said of a training in a cluster.
    """
    from modelport.errors import BadInput

    keys = ["--workers"] if workers is not None else []
    keys += [f"--set {override}" for override in overrides if re.match(r"train\.workers\b", override)]
    if keys:
        raise BadInput(
            "a stack decides how many pods train, and what each has",
            key=keys[0],
            remedy="set modelport:models.NAME.train.workers in the stack, and `pulumi up`",
        )
    if data_uri is not None and not data_uri.startswith("s3://"):
        raise BadInput(
            f"{data_uri!r} is on this machine, and a cluster trains on what is on its object store",
            key="--data",
            remedy="push it with `modelport data push NAME PATH`",
        )
    given = [] if data_uri is None else ["--data", data_uri]
    return [*given, *(part for override in overrides for part in ("--set", override))]


@contextmanager
def _folder(name: str, bundle: Path | None) -> "Generator[ModelFolder]":
    """The model folder: the checkout's, or for as long as it is needed that of the bundle."""
    from modelport.contract import find_model, unpack_model
    from modelport.errors import ModelportError

    if bundle is None:
        yield find_model(name)
        return
    with tempfile.TemporaryDirectory(prefix="modelport-") as root:
        try:
            yield unpack_model(bundle, name, Path(root))
        except ModelportError:
            # What messages point to goes with this folder, and in a pod with the pod.
            for file in sorted(Path(root).rglob("logs/attempt-*/*")):
                text = file.read_text(errors="replace").strip()
                if text:
                    click.echo(f"--- {file}\n{text[-_SHOWN:]}", err=True)
            raise


def _command(arguments: list[str], name: str, template: Path | str) -> "Command":
    """What a template's command says of the training, read as `modelport train` itself will read it."""
    from modelport.errors import BadInput
    from modelport.training.submit import Command

    try:
        values = train.make_context("train", arguments).params
    except click.ClickException as error:
        raise BadInput(error.format_message(), file=template, key="spec.entrypoint") from None
    for option, wanted, remedy in (
        ("name", name, "each model has a template of its own"),
        ("checkpoints", "s3", "a pod's disk goes with the pod: write --checkpoints s3"),
    ):
        if values[option] != wanted:
            raise BadInput(f"has {values[option]!r}", file=template, key=f"spec.entrypoint: {option}", remedy=remedy)
    if values["bundle"] is None or values["again"] or values["run"]:
        remedy = "give --bundle to it, and neither --again nor --run: those are a submission's"
        raise BadInput("is no command that can be submitted", file=template, key="spec.entrypoint", remedy=remedy)
    return Command(values["data_uri"], tuple(values["overrides"]), values["workers"])


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)
