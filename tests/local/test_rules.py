"""Rules of the local platform that need no process."""

from pathlib import Path

import pytest

from modelport.errors import BadInput
from modelport.local import ports
from modelport.local.layout import Layout
from modelport.local.services import Service
from modelport.local.settings import PORTS, choose_ports
from modelport.local.supervision import Crashes, crashes, render

LOG = """\
2026-11-21 06:49:00,100 INFO spawned: 'mlflow' with pid 11
2026-11-21 06:49:10,100 WARN exited: mlflow (terminated by SIGKILL; not expected)
2026-11-21 06:49:11,100 INFO spawned: 'mlflow' with pid 12
2026-11-21 06:49:20,100 WARN exited: mlflow (exit status 1; not expected)
2026-11-21 06:49:25,100 WARN stopped: s3 (terminated by SIGTERM)
"""


def test_crashes_are_counted_from_supervisors_log_and_wanted_stops_are_not() -> None:
    assert crashes(LOG) == {"mlflow": Crashes(2, "exit status 1")}


def service(name: str = "s3", **changes: object) -> Service:
    return Service(**{"name": name, "command": ["weed"], "url": "", "health": "", "ports": [1], **changes})  # type: ignore[arg-type]


def test_a_changed_service_is_told_from_an_unchanged_one_without_its_secrets() -> None:
    layout = Layout(Path("/somewhere/100% sure"))
    text = render(layout, [service(environment={"PASSWORD": "hunter2"})])
    assert "hunter2" not in text
    assert text != render(layout, [service(environment={"PASSWORD": "hunter3"})])
    assert "100%% sure" in text


@pytest.mark.parametrize("name", ['qu"ote', "semi ;colon", "ha #sh", "new\nline"])
def test_a_folder_that_supervisor_would_misread_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="supervisor cannot be told"):
        render(Layout(Path("/somewhere") / name), [service()])


def test_the_socket_always_fits() -> None:
    assert Layout(Path("/short")).socket == Path("/short/supervisor/supervisor.sock")
    for length in range(60, 120):
        assert len(str(Layout(Path("/" + "d" * length)).socket)) <= 99


def test_ports_are_wished_or_remembered_or_free() -> None:
    remembered = choose_ports({}, {})
    assert set(remembered) == set(PORTS)
    assert len(set(remembered.values())) == len(PORTS)
    assert choose_ports({}, remembered) == remembered
    (fresh,) = ports.free_ports(1, avoid=remembered.values())
    again = choose_ports({"gateway": fresh, "s3": remembered["mlflow"]}, remembered)
    assert again["gateway"] == fresh
    assert again["s3"] == remembered["mlflow"]
    assert len(set(again.values())) == len(PORTS)
