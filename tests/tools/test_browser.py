"""The browser for the tests of the page: found, installed where that can be done, and otherwise asked for in words."""

from pathlib import Path

import pytest

from tests.tools.machines import program
from tools.browser import NAMES, VARIABLE, ensure_browser, find_browser


class Machine:
    """A machine with nothing on PATH, on which packages may be installed."""

    def __init__(self, folder: Path, *, apt: bool = True, works: bool = True) -> None:
        self.folder = folder
        self.works = works
        self.ran: list[tuple[str, ...]] = []
        self.said: list[str] = []
        if apt:
            program(folder / "apt-get")

    def run(self, command: tuple[str, ...]) -> int:
        self.ran.append(command)
        if self.works and "install" in command:
            program(self.folder / "chromium")
        return 0 if self.works else 100

    def ensure(self, *, is_root: bool = True, **variables: str) -> Path | None:
        return ensure_browser({"PATH": str(self.folder), **variables}, is_root, self.run, self.said.append)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_there_is_used(tmp_path: Path, name: str) -> None:
    there = program(tmp_path / name)
    machine = Machine(tmp_path)
    assert machine.ensure() == there
    assert machine.ran == []


def test_the_users_own_comes_first_and_a_wrong_name_is_told(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "chromium")
    own = program(tmp_path / "my" / "browser")
    machine = Machine(tmp_path / "bin")
    assert machine.ensure(**{VARIABLE: str(own)}) == own
    assert machine.ensure(**{VARIABLE: str(tmp_path / "nothing")}) is None
    assert machine.ran == [], "who names one wants no other"
    assert str(tmp_path / "nothing") in machine.said[0]


def test_it_is_installed_by_root_only_and_what_fails_stops_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "debian")
    assert machine.ensure(is_root=False) is None
    assert machine.ran == []
    assert VARIABLE in machine.said[-1]
    assert machine.ensure() == tmp_path / "debian" / "chromium"
    assert [command[:2] for command in machine.ran] == [("apt-get", "update"), ("apt-get", "install")]

    offline = Machine(tmp_path / "offline", works=False)
    assert offline.ensure() is None
    assert len(offline.ran) == 1
    assert "`apt-get update` failed with status 100" in offline.said[-1]

    other = Machine(tmp_path / "other", apt=False)
    (tmp_path / "other").mkdir()
    assert other.ensure() is None
    assert find_browser({"PATH": str(tmp_path / "other")}) is None
