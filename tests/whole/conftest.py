"""A stack that is up in a real cluster, with a model that was trained there and is served."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.whole.clock import Clock
from tests.whole.journey import Journey
from tests.whole.site import Site


@dataclass
class Lived:
    """A stack with a model that is served."""

    journey: Journey
    site: Site


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    journey = Journey(Clock(print))
    with journey.site(tmp_path_factory.mktemp("whole")) as site:
        journey.up(site)
        journey.push(site)
        journey.release(site, "first")
        yield Lived(journey, site)
