"""dev from nothing to nothing, with the policy pack in force."""

import json
from pathlib import Path

from tests.cluster.control_plane import ControlPlane
from tests.infra.conftest import DEV_NODES, environment
from tests.policy.environments import policy_environment
from tools import crds


def test_up_under_the_policies_and_destroy_leave_nothing(tmp_path: Path):
    with ControlPlane(nodes=DEV_NODES) as cluster:
        cluster.apply_crds(crds("gateway-api"))
        made = environment(tmp_path, cluster, "dev")
        # The pack's own environment, as policy/README.md makes it.
        (made.project / "policy" / ".venv").symlink_to(policy_environment())
        up = made.engine.up("--policy-pack", str(made.project / "policy"))
        assert any("image-digest" in text for text in up.diagnostics), "unpinned images are listed"
        destroyed = made.engine.destroy()
        assert len(destroyed.deleted) == len(up.created)
        assert made.engine.export()["deployment"].get("resources", []) == []
        ours = [
            item["metadata"]["name"]
            for item in cluster.get("/api/v1/namespaces")["items"]
            if item["metadata"]["name"].startswith("modelport-")
        ]
        assert ours == []
        assert json.loads((tmp_path / "gcp.json").read_text())["resources"] == {}
