"""A stack that is up in a real cluster, with a model that was trained there and is served."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.whole.clock import Clock
from tests.whole.journey import Journey
from tests.whole.room import too_little_disk
from tests.whole.site import Site
from tests.whole.told import TOLD, table


@dataclass
class Lived:
    """A stack with a model that is served."""

    journey: Journey
    site: Site


@pytest.fixture(scope="module")
def lived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """Of the settings that the module calls SETTINGS, if it does; as it trains, what it calls MEANWHILE is done."""
    if reason := too_little_disk():
        pytest.skip(reason)
    journey, settings = Journey(Clock(print)), getattr(request.module, "SETTINGS", {})
    meanwhile = getattr(request.module, "MEANWHILE", None)
    with journey.site(tmp_path_factory.mktemp("whole"), **settings) as site:
        journey.up(site)
        journey.push(site)
        journey.release(site, "first", meanwhile=meanwhile)
        yield Lived(journey, site)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a user saw of each fault."""
    if TOLD:
        terminalreporter.section("what a user saw who asked five times a second")
        for line in table():
            terminalreporter.write_line(line)
