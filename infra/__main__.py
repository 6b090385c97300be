"""`pulumi up`: settings, cluster, platform, one workload for each folder under models/, exports."""

from pathlib import Path

import pulumi

from components.labels import OWNER, STACK
from infra import capacity, cluster, exports, platform, workload
from infra.models import load_models
from infra.settings import load
from modelport.errors import ModelportError


def main() -> None:
    """Everything that can be wrong is looked at before the first resource is registered."""
    settings, gcp = load()
    models = load_models(Path(__file__).resolve().parent.parent, settings)
    placed = capacity.place(workload.demands(models, settings), cluster.shapes(settings, gcp))
    pulumi.log.info("what goes where:\n" + capacity.table(placed))

    labels = {STACK: pulumi.get_stack(), OWNER: workload.label_value(settings.owner)}
    base = cluster.build(settings, gcp, labels)
    shared = platform.build(settings, gcp, base, labels)
    opts = pulumi.ResourceOptions(providers=[base.provider])
    workload.build_pools(models, placed, settings, shared, labels, opts)
    served = {model.name: workload.build(model, placed, settings, shared, labels, opts) for model in models}
    exports.export(settings, base, shared, served)


try:
    main()
except ModelportError as error:
    # What the user can mend is told without a traceback.
    raise pulumi.RunError(str(error)) from None
