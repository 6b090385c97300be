"""A stack that is up in a real cluster, with a model that was trained there and is served."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.whole.clock import Clock
from tests.whole.journey import Journey
from tests.whole.site import Site
from tests.whole.told import TOLD, table
from tools.images.build import images_folder

ROOM_GB = 25
"""Disk that the images take while they are built and imported, and what the pods write."""
CACHED_ROOM_GB = 6
"""The same where they are there already."""


def too_little_disk(images: Path) -> str | None:
    """Why the whole stack cannot be brought up for want of disk; None where there is enough.

    Args:
        images: folder of the images, which is there where they were built before.
    """
    wanted = CACHED_ROOM_GB if images.is_dir() else ROOM_GB
    place = next(folder for folder in (images, *images.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    if free >= wanted:
        return None
    return f"the whole stack takes {wanted} GB of disk, and {place} has {free:.0f}"


@dataclass
class Lived:
    """A stack with a model that is served."""

    journey: Journey
    site: Site


@pytest.fixture(scope="module")
def lived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """Of the settings that the module calls SETTINGS, if it does."""
    if reason := too_little_disk(images_folder()):
        pytest.skip(reason)
    journey, settings = Journey(Clock(print)), getattr(request.module, "SETTINGS", {})
    with journey.site(tmp_path_factory.mktemp("whole"), **settings) as site:
        journey.up(site)
        journey.push(site)
        journey.release(site, "first")
        yield Lived(journey, site)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a user saw of each fault."""
    if TOLD:
        terminalreporter.section("what a user saw who asked five times a second")
        for line in table():
            terminalreporter.write_line(line)
