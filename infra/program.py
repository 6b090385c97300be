"""The program: settings, cluster, platform, one workload for each folder under models/, exports."""

from pathlib import Path

import pulumi

from components.labels import OWNER, STACK, label_value
from infra import cluster, exports, platform, workload
from infra.plan import plan
from infra.settings import configuration
from modelport.errors import ModelportError


def run() -> None:
    """Register everything.

    Raises:
        RunError: what the user can mend is told without a traceback; ValueError is how components refuse arguments.
    """
    try:
        _register()
    except (ModelportError, ValueError) as error:
        raise pulumi.RunError(str(error)) from None


def _register() -> None:
    """Everything that can be wrong is looked at before the first resource is registered."""
    made = plan(configuration(), pulumi.get_stack(), Path(__file__).resolve().parent.parent)
    pulumi.log.info("what goes where:\n" + made.table)
    if made.untold:
        pulumi.log.warn(
            f"no alert of {', '.join(made.untold)} reaches anybody: they show in Grafana only\n"
            "  remedy: pulumi config set --path --secret modelport:monitoring.receivers.default https://ADDRESS"
        )

    settings, models, placed = made.settings, made.models, made.placed
    labels = {STACK: pulumi.get_stack(), OWNER: label_value(settings.owner)}
    base = cluster.build(settings, made.gcp, labels)
    shared = platform.build(settings, made.gcp, base, labels)
    opts = pulumi.ResourceOptions(providers=[base.provider])
    workload.build_pools(models, placed, settings, shared, labels, opts)
    served = {model.name: workload.build(model, placed, settings, shared, labels, opts) for model in models}
    exports.export(settings, base, shared, served)
