"""`modelport check` and `modelport schema`."""

import json
import sys

import click


@click.command()
@click.argument("name", required=False)
def check(name: str | None) -> None:
    """Check the model folder NAME, or all of them, against the contract."""
    from modelport.contract import check as check_folder
    from modelport.contract import discover, find_model
    from modelport.errors import BadInput
    from modelport.project import project_root

    root = project_root()
    folders = [find_model(name, root)] if name else discover(root)
    if not folders:
        raise BadInput("holds no model folder", file=root / "models", remedy="add one; docs/add-a-model.md says how")
    failed = False
    for folder in folders:
        problems = check_folder(folder)
        failed = failed or bool(problems)
        for problem in problems:
            click.echo(f"error: {problem.error()}", err=True)
        click.echo(f"{folder.name}: {'ok' if not problems else f'{len(problems)} problem(s)'}")
    sys.exit(BadInput.exit_code if failed else 0)


@click.command()
def schema() -> None:
    """Print the JSON schema of model.yaml."""
    from modelport.contract import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
