"""`modelport data`: datasets on the platform's object store."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from modelport.contract import ModelSpec


@click.group()
def data() -> None:
    """Put datasets on the platform's S3, and list them."""


@data.command()
@click.argument("name")
@click.argument("path")
def push(name: str, path: str) -> None:
    """Put the dataset in PATH on the platform's S3 as NAME: by content, and never twice.

    PATH is a folder, a zip of one, or s3://BUCKET/uploads/FILE.zip. NAME is what a model's data.name says. Held-out
    files go where only the gate can read them.
    """
    from modelport.connection import Connection, Role
    from modelport.data import push as push_dataset
    from modelport.objects import ObjectStore

    spec = _spec_of_dataset(name)
    store = ObjectStore.connect(Connection.load(), Role.PROMOTER)

    def progress(done: int, total: int) -> None:
        if done % 500 == 0 and done < total:
            click.echo(f"{done}/{total} files", err=True)

    # A zip is unpacked for this push only: what it holds out must not stay on a laptop.
    result = push_dataset(name, path, spec, store, progress)
    for remark in result.remarks:
        click.echo(f"note: {remark}", err=True)
    click.echo(f"{result.train} examples to train and select with, {result.heldout} held out")
    click.echo(f"{result.uploaded} files uploaded, {result.skipped} were there already")
    click.echo(f"digest  {result.digest}")
    click.echo(f"uri     {result.uri}")


@data.command(name="list")
@click.argument("name")
def list_(name: str) -> None:
    """List the versions of dataset NAME on the platform's S3, oldest first."""
    from modelport.connection import Connection, Role
    from modelport.data import list_datasets
    from modelport.objects import ObjectStore

    connection = Connection.load()
    role = Role.PROMOTER if Role.PROMOTER in connection.s3_keys else Role.TRAINER
    versions = list_datasets(ObjectStore.connect(connection, role), name)
    if not versions:
        click.echo(f"no version of {name} was pushed; `modelport data push {name} PATH` puts one there", err=True)
    for version in versions:
        click.echo(
            f"{version.digest[:12]}  {version.first_pushed:%Y-%m-%d %H:%M}  "
            f"{version.train} train, {version.heldout} held out  {version.uri}{'  (latest)' if version.latest else ''}"
        )


def _spec_of_dataset(name: str) -> "ModelSpec":
    """Specification of a model that learns from this dataset: it says how the files are to be read."""
    from modelport.contract import discover
    from modelport.errors import BadInput
    from modelport.project import project_root

    root = project_root()
    specs = [folder.spec for folder in discover(root)]
    found = [spec for spec in specs if spec.data.name == name]
    if not found:
        wanted = ", ".join(sorted({spec.data.name for spec in specs})) or "none"
        raise BadInput(
            f"no model here learns from a dataset {name!r}",
            file=root / "models",
            key="data.name",
            remedy=f"datasets that models name: {wanted}",
        )
    first, *others = found
    for other in others:
        for key, one, two in (
            ("task", first.task, other.task),
            # A push divides the dataset once, for every model that names it.
            ("data.heldout_fraction", first.data.heldout_fraction, other.data.heldout_fraction),
            ("data.group_pattern", first.data.group_pattern, other.data.group_pattern),
        ):
            if one != two:
                raise BadInput(
                    f"is {one} in {first.name} and {two} in {other.name}, which both learn from dataset {name!r}",
                    file=root / "models" / other.name / "model.yaml",
                    key=key,
                    remedy="make them agree, or give the datasets names of their own in data.name",
                )
    return first
