"""The command line: commands parse, call one function of a room, and print.

Commands are imported when they are called, so that `modelport --help` needs none of their libraries.
"""

import gc
import importlib
import os
import sys

import click

from modelport.errors import ModelportError, Unavailable

_COMMANDS = {
    "check": ("modelport.cli.contract:check", "Check model folders against the contract."),
    "connect": ("modelport.cli.connect:connect", "Reach a stack's cluster with the other commands."),
    "data": ("modelport.cli.data:data", "Put datasets on the platform's S3, and list them."),
    "demo": ("modelport.cli.demo:demo", "Run the whole life of a model on this machine."),
    "export": ("modelport.cli.export:export", "Derive and compare variants of a release: INT8, OpenVINO, TensorRT."),
    "gate": ("modelport.cli.promotion:gate", "Evaluate a release on the held-out split."),
    "gc": ("modelport.cli.promotion:gc", "Remove what nothing refers to any more (dry by default)."),
    "loadtest": ("modelport.cli.loadtest:loadtest", "Load-test what serves a model, and write a report."),
    "local": ("modelport.cli.local:local", "The platform on this machine: up, status, down, logs."),
    "new": ("modelport.cli.new:new", "Write a new model folder that trains at once."),
    "predict": ("modelport.cli.predict:predict", "Ask a model about images."),
    "promote": ("modelport.cli.promotion:promote", "Make a release that passed the gate the one that serves."),
    "rollback": ("modelport.cli.promotion:rollback", "Serve an earlier release again."),
    "schema": ("modelport.cli.contract:schema", "Print the JSON schema of model.yaml."),
    "status": ("modelport.cli.promotion:status", "What should serve, what serves, and why they differ."),
    "train": ("modelport.cli.train:train", "Train a model folder and register its release."),
    "versions": ("modelport.cli.promotion:versions", "List a model's releases."),
}
_HIDDEN = {
    "agent": ("modelport.cli.serving:agent", "Keep a Triton serving the desired versions."),
    "gateway": ("modelport.cli.serving:gateway", "Serve the REST API."),
    "submit": ("modelport.cli.train:submit", "Submit a training to the cluster."),
}

_ARGUMENTS = "modelport.arguments"
"""Key of a context's `meta`: the command's name and what follows it."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = {**_COMMANDS, **_HIDDEN}.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target[0].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("modelport"):
                raise
            raise Unavailable(
                f"`modelport {cmd_name}` needs the package {error.name!r}, which is not installed",
                remedy="`make setup` installs everything; pyproject.toml lists what each extra holds",
            ) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # Our own callback runs after this, and finds them nowhere else.
        ctx.meta[_ARGUMENTS] = list(args)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="modelport")
@click.option(
    "--stack",
    envvar="MODELPORT_STACK",
    help="Use the cluster of this stack, which a running `modelport connect` reaches. Also MODELPORT_STACK.",
)
@click.pass_context
def cli(context: click.Context, stack: str | None) -> None:
    """A directory becomes a served model.

    Exit codes: 0 done, 1 failed, 2 bad input, 3 the gate refused, 4 somebody else won, 5 a service is away, 6 refused.
    """
    if stack and context.invoked_subcommand:
        _use(stack, context.meta[_ARGUMENTS], context)


def _use(stack: str, arguments: list[str], context: click.Context) -> None:
    """Let the command have the connection that it needs in a stack, and no other."""
    from modelport.project import state_folder
    from modelport.remote.uses import use_of

    use = use_of(arguments)
    if use is None or {"-h", "--help"} & set(arguments):
        return
    said = context.get_parameter_source("stack") is click.core.ParameterSource.COMMANDLINE
    if not said and "MODELPORT_CONNECTION" in os.environ:
        return  # what names a file is more exact than what names a stack
    from modelport.remote.folders import choose

    os.environ["MODELPORT_CONNECTION"] = str(choose(stack, use, state_folder()))


def main() -> None:
    """Entry point: errors made on purpose are printed without a traceback, and decide the exit code."""
    # Importing MLflow or torch makes objects by the hundred thousand and no garbage; looking for it took a fifth.
    gc.set_threshold(100_000)
    try:
        cli()
    except ModelportError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output is gone (`modelport ... | head`); there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
