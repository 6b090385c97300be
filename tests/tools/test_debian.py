"""Programs of the operating system: found under any name, installed where that can be done, otherwise asked for."""

from pathlib import Path

import pytest

from tests.tools.machines import program
from tools.debian import PackagesMissing, install, is_there, need


class Machine:
    """A machine with apt-get, which does or does not work."""

    def __init__(self, folder: Path, *, apt: bool = True, fails: str = "") -> None:
        self.folder = folder
        self.fails = fails
        self.ran: list[tuple[str, ...]] = []
        self.said: list[str] = []
        if apt:
            program(folder / "apt-get")

    def run(self, command: tuple[str, ...]) -> int:
        self.ran.append(command)
        return 100 if self.fails in command else 0

    def install(self, *packages: str, is_root: bool = True) -> None:
        install(packages, {"PATH": str(self.folder)}, is_root, self.run, self.said.append)


def test_what_is_missing_is_installed_in_one_go(tmp_path: Path) -> None:
    machine = Machine(tmp_path)

    machine.install("runc", "nftables")

    update, installation = machine.ran
    assert update == ("apt-get", "update")
    assert installation[:3] == ("apt-get", "install", "--yes")
    assert installation[-2:] == ("runc", "nftables")
    assert machine.said == ["installing Debian's packages runc, nftables"]


@pytest.mark.parametrize(("apt", "is_root"), [(True, False), (False, True)])
def test_without_root_or_apt_it_is_asked_for(tmp_path: Path, apt: bool, is_root: bool) -> None:
    machine = Machine(tmp_path, apt=apt)

    with pytest.raises(PackagesMissing, match="missing: runc; it takes root and apt-get"):
        machine.install("runc", is_root=is_root)

    assert machine.ran == []


@pytest.mark.parametrize("step", ["update", "install"])
def test_a_failure_says_what_is_missing_and_which_command_failed(tmp_path: Path, step: str) -> None:
    machine = Machine(tmp_path, fails=step)

    with pytest.raises(PackagesMissing, match=f"missing: runc; `apt-get {step}.*` failed with status 100"):
        machine.install("runc")


@pytest.mark.parametrize(
    ("package", "called"),
    [
        ("nftables", "nft"),
        ("iproute2", "ip"),
        ("chromium", "google-chrome"),
        ("one-that-nobody-has", "one-that-nobody-has"),
    ],
)
def test_a_package_is_there_when_its_program_is(tmp_path: Path, package: str, called: str) -> None:
    folder = tmp_path / "bin"
    program(folder / called)

    assert is_there(package, {"PATH": str(folder)})


def test_a_package_without_a_program_is_there_when_dpkg_says_so(tmp_path: Path) -> None:
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert not is_there("one-that-nobody-has", environment)

    program(tmp_path / "dpkg-query").write_text("#!/bin/sh\nprintf installed\n")

    assert is_there("one-that-nobody-has", environment)


def test_who_has_everything_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "nft")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MODELPORT_CACHE", str(tmp_path / "cache"))

    need("nftables")

    assert not (tmp_path / "cache").exists()
