"""`modelport export`: what can be made of a release, and what it is worth."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from modelport.connection import Connection
    from modelport.contract import ModelSpec
    from modelport.data import Dataset
    from modelport.objects import ObjectStore
    from modelport.release import Release

_DIGEST = r"[0-9a-f]{64}"
_MOST_WORKERS = 256
"""That ``model.yaml`` allows."""


@click.command()
@click.argument("name")
@click.argument("release", required=False)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Arithmetic of the network. int8 without --format makes and registers a release that carries it.",
)
@click.option(
    "--format", "kind", type=click.Choice(["onnx", "openvino", "tensorrt"]), help="Write files for use elsewhere."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder that is written to.")
@click.option("--compare", is_flag=True, help="Measure all variants side by side: size, accuracy, latency.")
@click.option(
    "--data",
    "data_uri",
    help="Where the data that the release was trained on lie: int8 is calibrated on their training split, --compare "
    "measures on their selection split. Other data are refused. [default: on S3, in the version of the training]",
)
@click.option(
    "--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads that --compare uses."
)
def export(
    name: str,
    release: str | None,
    precision: str | None,
    kind: str | None,
    out: Path | None,
    compare: bool,
    data_uri: str | None,
    threads: int,
) -> None:
    """Derive variants of RELEASE of model NAME (default: the one staged last), or compare them.

    RELEASE is a digest, its beginning, or v7 for MLflow's version 7.

    \b
    modelport export NAME --precision int8                      a new release that carries INT8, for the gate
    modelport export NAME --format openvino --out FOLDER        files for use elsewhere
    modelport export NAME --compare                             what each variant is worth
    """
    from modelport.connection import Connection, Role
    from modelport.objects import ObjectStore

    _check_options(precision, kind, out, compare)
    connection = Connection.load()
    store = ObjectStore.connect(connection, Role.TRAINER)
    found = _found(store, connection, name, release)
    if compare:
        _compare(found, connection, store, data_uri, threads, out)
    elif kind is not None and out is not None:
        _write(found, connection, store, data_uri, kind, precision or "fp32", out)
    else:
        _make_int8(found, connection, store, data_uri)


def _check_options(precision: str | None, kind: str | None, out: Path | None, compare: bool) -> None:
    if compare and (kind or precision):
        raise click.UsageError("--compare measures every variant: give neither --precision nor --format")
    if kind is not None and out is None:
        raise click.UsageError("--format writes files: say where, with --out FOLDER")
    if not compare and kind is None:
        if out is not None:
            raise click.UsageError("--out goes with --format or --compare")
        if precision is None:
            raise click.UsageError("nothing to do: give --precision int8, --format or --compare")
        if precision != "int8":
            raise click.UsageError(
                f"{precision} is served from the graph that every release has: nothing is to be made"
            )


def _make_int8(release: "Release", connection: "Connection", store: "ObjectStore", data_uri: str | None) -> None:
    from modelport.contract import Precision
    from modelport.project import state_folder
    from modelport.release import stage, with_int8

    dataset, spec, uri = _dataset(release, connection, store, data_uri)
    name = release.manifest.model
    made = with_int8(release, dataset.train, state_folder() / "releases" / name)
    built = stage(made, connection)
    before, after = (len(made.graph("network", precision)) for precision in ("fp32", "int8"))
    click.echo(f"release   {built.digest} (version {built.version} in MLflow)")
    click.echo(f"network   {before / 1e6:.2f} MB in fp32, {after / 1e6:.2f} MB in int8")
    click.echo(f"worth it? modelport export {name} {built.digest[:12]} --compare --data {uri}")
    click.echo(f"next      modelport gate {name} {built.digest[:12]} --data {uri}")
    click.echo(f"served    in {spec.serve.precision}, as the release's own model.yaml says (serve.precision)")
    if spec.serve.precision is not Precision.INT8:
        click.echo(f"          for int8: `modelport:models.{name}.serve.precision: int8` in the stack,")
        click.echo("          or `serve: {precision: int8}` in model.yaml before the next training")


def _write(
    release: "Release",
    connection: "Connection",
    store: "ObjectStore",
    data_uri: str | None,
    kind: str,
    precision: str,
    out: Path,
) -> None:
    from modelport.contract import Precision
    from modelport.release.formats import EXPORT_FILE, Format, write_format
    from modelport.release.variants import Calibration

    calibration: Calibration | None = None
    if (kind, precision) == (Format.TENSORRT, Precision.INT8):
        dataset, _, _ = _dataset(release, connection, store, data_uri)
        calibration = Calibration.of(dataset.train, release.trained_on())
    written = write_format(release, Format(kind), Precision(precision), out, calibration)
    for each in (*written.files, EXPORT_FILE):
        click.echo(f"{out / each}")
    if written.remark:
        click.echo(f"note: {written.remark}", err=True)


def _compare(
    release: "Release",
    connection: "Connection",
    store: "ObjectStore",
    data_uri: str | None,
    threads: int,
    out: Path | None,
) -> None:
    from rich.console import Console

    from modelport.promotion.comparison import Missing, Way, compare_variants
    from modelport.release.engines import Engine, engines, network_inputs

    dataset, spec, _ = _dataset(release, connection, store, data_uri)
    images, inputs = network_inputs(release)

    def way(engine: Engine) -> Way:
        return Way(engine.name, engine.size, lambda tensor: engine.network.run({"input": tensor}), engine.predict)

    report = compare_variants(
        release.digest,
        spec,
        [way(each) if isinstance(each, Engine) else Missing(each.name, each.why) for each in engines(release, threads)],
        dataset.selection,
        split_name=_selection_name(release, spec),
        images=images,
        inputs=inputs,
        threads=threads,
    )
    # Into a file or a pipe it would be folded to 80 columns.
    console = Console()
    Console(width=console.width if console.is_terminal else 200).print(report.to_table())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in (("variants.md", report.to_markdown()), ("variants.json", report.model_dump_json(indent=2))):
            (out / file).write_text(text)
            click.echo(f"{out / file}")


def _found(store: "ObjectStore", connection: "Connection", model: str, name: str | None) -> "Release":
    """The release that is meant, verified, from staging, or where that has expired, from what was promoted.

    Raises:
        BadInput: it has expired, and was never promoted.
        Refused: it has expired, and this connection may not read what was promoted.
    """
    from modelport.connection import Role
    from modelport.errors import BadInput, Refused
    from modelport.objects import NotFound, ObjectStore
    from modelport.project import state_folder
    from modelport.promotion.catalogue import resolve
    from modelport.release import RELEASES, Release, staging_prefix

    whole = [name] if name is not None and re.fullmatch(_DIGEST, name) else []
    digest = resolve(store, model, name, whole, connection)
    place = state_folder() / "releases" / model / digest
    try:
        return Release.fetch(store, staging_prefix(model), digest, place)
    except NotFound:
        expired = f"release {digest[:12]} of {model} has expired from staging"
    if Role.SERVER not in connection.s3_keys:
        raise Refused(
            f"{expired}, and this connection may not read what was promoted",
            remedy="ask for the role reader (modelport:access of the stack), or for a connection with the server's key",
        )
    try:
        return Release.fetch(ObjectStore.connect(connection, Role.SERVER), RELEASES, digest, place)
    except NotFound:
        raise BadInput(
            f"{expired}, and was never promoted", remedy=f"train it once more: `modelport train {model} --again`"
        ) from None


def _dataset(
    release: "Release", connection: "Connection", store: "ObjectStore", data_uri: str | None
) -> "tuple[Dataset, ModelSpec, str]":
    """Training's side of the release's data, divided as its own ``model.yaml`` says; with where they lie.

    Raises:
        BadInput: the data are not there, or are not those that the release was trained on.
    """
    from modelport.contract import parse_spec
    from modelport.data import dataset_uri, load_dataset
    from modelport.data.address import Kind, manifest_key
    from modelport.errors import BadInput
    from modelport.project import state_folder

    spec = parse_spec(release.read("model.yaml").decode(), release.folder / "model.yaml")
    digest = release.manifest.data_digest
    uri = data_uri or dataset_uri(connection.bucket, spec.data.name, digest)
    if data_uri is None and not store.exists(manifest_key(Kind.DATASETS, spec.data.name, digest)):
        raise BadInput(
            "the data that the release was trained on are not there", file=uri, remedy="say where they lie, with --data"
        )
    dataset = load_dataset(uri, spec, store=store, cache=state_folder() / "cache")
    if dataset.digest != digest:
        raise BadInput(
            f"is version {dataset.digest[:12]} of the data; release {release.digest[:12]} was trained on {digest[:12]}",
            file=uri,
            key="--data",
            remedy=f"give that version; on S3 it is {dataset_uri(connection.bucket, spec.data.name, digest)}",
        )
    return dataset, spec, uri


def _selection_name(release: "Release", spec: "ModelSpec") -> str:
    """What a report calls the selection split.

    A release does not carry what ``--set`` said of the seed and the share when it was trained. Where they were those of
    its ``model.yaml``, its run key says so: it is a hash of these and of all else that decided the training.
    """
    from modelport.training.identity import run_key

    made = release.manifest
    train = spec.train.model_copy(update={"parameters": made.parameters})
    trained = spec.model_copy(update={"train": train})
    keys = (run_key(trained, made.code_digest, made.data_digest, workers) for workers in range(1, _MOST_WORKERS + 1))
    if made.run_key in keys:
        return "selection split"
    return (
        f"selection split that model.yaml gives (seed {spec.train.seed}, share {spec.data.selection_fraction:g}; the "
        "training may have had another, and have learned from some of these images)"
    )
