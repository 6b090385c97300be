"""Many model folders; ``MODELPORT_TEST_MODELS=100`` for a hundred of them."""

import os
import time
from collections import Counter

from tests.infra.conftest import Environment

MODELS = int(os.environ.get("MODELPORT_TEST_MODELS", "15"))


def test_many_models_preview(draft: Environment):
    """Each model costs the same: nothing per pair of models."""
    # Room for all of them.
    draft.engine.config_set("modelport:cluster.node_pools.cpu.maximum", "100", path=True)
    names = [f"copy_{number:02}" for number in range(MODELS - len(list((draft.project / "models").iterdir())))]
    for name in names:
        draft.add_model(name)
    began = time.monotonic()
    made = draft.engine.preview().created
    print(f"preview of {MODELS} models: {time.monotonic() - began:.1f} s")
    of_model = Counter(step.name[:7] for step in made if step.name.startswith("copy-"))
    assert set(of_model) == {name.replace("_", "-") for name in names}
    assert len(set(of_model.values())) == 1
    assert next(iter(of_model.values())) > 5
    # All others: the platform's, and those of the models that are shipped.
    assert len([step for step in made if "copy" in step.urn]) == sum(of_model.values())
