"""What the platform image installs, as far as it shows before a cluster runs it."""

import re
from importlib import metadata
from pathlib import Path

LOCK = Path(__file__).resolve().parents[2] / "locks" / "platform.txt"


def test_ray_has_its_dashboards_agent_which_answers_the_operators_probes_and_takes_jobs() -> None:
    locked = set(re.findall(r"^([a-z0-9.-]+)==", LOCK.read_text(), re.MULTILINE))
    wanted = {
        re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        for requirement in metadata.requires("ray") or []
        if re.search(r"extra == ['\"]default['\"]", requirement)
    }
    assert "aiohttp-cors" in wanted, "Ray calls its extra otherwise now"
    assert wanted <= locked, f"missing: {sorted(wanted - locked)}"
