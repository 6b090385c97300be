"""The present program over what a released one left: nothing that holds data is replaced or deleted."""

import gzip
import json
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane
from tests.engine.engine import CHANGING
from tests.infra.conftest import DEV_NODES, environment
from tests.infra.record import RECORDED
from tests.policy.manifests import objects, resources_of

STATEFUL = (
    ":StatefulSet",
    ":PersistentVolumeClaim",
    ":Namespace",
    ":Cluster",
    ":NodePool",
    ":DatabaseInstance",
    ":Database",
    ":Bucket",
    ":Network",
    ":Subnetwork",
    ":RandomPassword",
)


def put_back(cluster: ControlPlane, charts: Path, resources: list[dict[str, Any]]) -> None:
    """Make the cluster what the recorded state says it was, with the kinds of a folder of charts."""
    for definitions in charts.iterdir():
        cluster.apply_crds(definitions)
    manifests = with_secrets(resources)
    manifests.sort(key=lambda manifest: manifest["kind"] != "Namespace")
    listing = {"apiVersion": "v1", "kind": "List", "items": manifests}
    cluster.kubectl("apply", "--server-side", "--field-manager=pulumi-kubernetes", "-f", "-", stdin=json.dumps(listing))


def with_secrets(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Manifests of a state whose secrets are shown."""
    found = resources_of(record for record in resources if "inputs" in record)
    manifests = objects(found)
    plain = {resource.object_name: resource.properties.get("stringData") for resource in found}
    for manifest in manifests:
        if manifest["kind"] == "Secret" and plain.get(manifest["metadata"]["name"]):
            manifest["stringData"] = dict(plain[manifest["metadata"]["name"]])  # type: ignore[arg-type]
    return manifests


def test_an_upgrade_replaces_nothing_that_holds_data(tmp_path: Path):
    recorded = json.loads(gzip.decompress(RECORDED.read_bytes()))
    with ControlPlane(nodes=DEV_NODES) as cluster:
        made = environment(tmp_path, cluster, "dev")
        file = made.project / "stacks" / "Pulumi.dev.yaml"
        own = file.read_text().split("encryptionsalt: ")[1].split()[0]
        file.write_text(file.read_text().replace(own, recorded["salt"]))
        (tmp_path / "gcp.json").write_text(json.dumps(recorded["google"]))
        made.engine.import_state(recorded["state"])
        put_back(cluster, tmp_path / "charts", made.engine.export(show_secrets=True)["deployment"]["resources"])
        claims = {item["metadata"]["uid"] for item in cluster.get("/api/v1/persistentvolumeclaims")["items"]}

        changes = made.engine.up()

        lost = [
            f"{step.op} {step.urn} {sorted(step.changed)}"
            for step in changes.steps
            if step.op in CHANGING - {"create", "update", "import"} and step.type.endswith(STATEFUL)
        ]
        assert lost == []
        assert claims
        assert claims <= {item["metadata"]["uid"] for item in cluster.get("/api/v1/persistentvolumeclaims")["items"]}
        assert made.engine.preview().empty
