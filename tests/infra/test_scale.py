"""A hundred model folders."""

import time

from tests.infra.conftest import Environment


def test_a_hundred_models_preview(draft: Environment, record_property):
    """Each model costs the same: a hundred take no more than a hundred times one, and nothing per pair of models."""
    for number in range(2):
        draft.add_model(f"copy_{number}")
    begun = time.monotonic()
    few = draft.engine.preview()
    seconds_few = time.monotonic() - begun
    # Room for all of them.
    draft.engine.config_set("modelport:cluster.node_pools.cpu.maximum", "100", path=True)
    for number in range(2, 99):
        draft.add_model(f"copy_{number}")
    begun = time.monotonic()
    many = draft.engine.preview()
    seconds_many = time.monotonic() - begun
    print(f"preview of 3 models {seconds_few:.1f} s, of 100 {seconds_many:.1f} s")
    record_property("seconds", (seconds_few, seconds_many))
    per_model = len([step for step in few.created if step.name.startswith("copy-0-")])
    assert per_model > 5
    assert len(many.created) - len(few.created) == 97 * per_model
