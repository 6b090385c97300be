"""A cluster that is there already, with a public entry: nothing of Google's is made."""

import subprocess
import sys
from pathlib import Path

import yaml

from tests.cluster.control_plane import ControlPlane
from tests.infra.conftest import DEV_NODES, POOL, environment
from tools import crds

STACK = {
    "modelport:owner": "Platform team",
    "modelport:image": "registry.example.org/modelport/platform:0.1.0",
    "modelport:cluster": {
        "kind": "existing",
        "context": "modelport-test",  # of the kubeconfig that the environment names
        "nodes": {
            "general": {"cpus": 3.5, "memory": "12Gi", "count": 3},
            "gpu": {
                "cpus": 7,
                "memory": "25Gi",
                "gpus": 1,
                "gpu_memory": "22Gi",
                "accelerator": "nvidia-l4",
                "node_selector": {POOL: "gpu"},
                "tolerations": [{"key": "nvidia.com/gpu", "value": "present"}],
            },
        },
    },
    "modelport:operators": {"cert_manager": True},
    "modelport:gateway": {
        "hostname": "models.example.org",
        "gateway_class": "istio",
        "issuer": "letsencrypt",
        "sources": ["10.20.0.0/16"],
        "callers": ["hospital", "road-service"],
    },
    "modelport:access": {"promoter": ["release-managers"], "gateway/hospital": ["radiology"]},
    "modelport:models": {
        "polyp_seg": {"serve": {"gpus": 1, "gpu_memory": "8Gi"}, "load_test": {"rate": 20, "seconds": 90}}
    },
}


def test_up_on_a_cluster_of_ones_own(tmp_path: Path):
    with ControlPlane(nodes=DEV_NODES) as cluster:
        cluster.apply_crds(crds("gateway-api"))
        made = environment(tmp_path, cluster, "dev")
        file = made.project / "stacks" / "Pulumi.dev.yaml"
        kept = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key != "config"}
        file.write_text(yaml.safe_dump({**kept, "config": STACK}))

        up = made.engine.up()

        assert not [step.type for step in up.created if step.type.startswith("gcp:")]
        assert made.engine.preview().empty
        route = "/apis/gateway.networking.k8s.io/v1/namespaces/modelport-serving"
        listeners = cluster.get(f"{route}/gateways/gateway-public")["spec"]["listeners"]
        assert [(one["protocol"], one.get("tls", {}).get("mode")) for one in listeners] == [
            ("HTTPS", "Terminate"),
            ("HTTP", None),
        ]
        paths = [
            match["path"]["value"]
            for rule in cluster.get(f"{route}/httproutes/gateway-api")["spec"]["rules"]
            for match in rule["matches"]
        ]
        assert paths == ["/v1"], "neither metrics nor health are public"
        certificate = cluster.get("/apis/cert-manager.io/v1/namespaces/modelport-serving/certificates/gateway-tls")
        assert certificate["spec"]["dnsNames"] == ["models.example.org"]
        triton = cluster.get("/api/v1/namespaces/modelport-serving/pods?labelSelector=modelport.dev/pool=polyp-seg")
        assert [pod["spec"].get("nodeName") for pod in triton["items"]] == ["gpu-0"]
        load = cluster.get("/apis/batch/v1/namespaces/modelport-serving/cronjobs/polyp-seg-load-test")
        words = load["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"]
        assert (words[words.index("--rate") + 1], words[words.index("--duration") + 1]) == ("20", "90")
        role = cluster.get("/apis/rbac.authorization.k8s.io/v1/namespaces/modelport-registry/roles")["items"]
        readers = {
            item["metadata"]["name"]: item["rules"] for item in role if item["metadata"]["name"].endswith("reader")
        }
        assert readers["connection-promoter-reader"] == [
            {
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": ["connection-promoter-1-1"],
                "verbs": ["get"],
            }
        ]
        assert readers["connection-reader-reader"][0]["resourceNames"] == ["connection-reader-1-1"]
        bound = cluster.get("/apis/rbac.authorization.k8s.io/v1/namespaces/modelport-serving/rolebindings")["items"]
        groups = {item["metadata"]["name"]: [subject["name"] for subject in item["subjects"]] for item in bound}
        assert groups["caller-hospital"] == groups["people-gateway"] == ["radiology"]
        directory = cluster.get("/api/v1/namespaces/modelport-registry/configmaps/modelport-directory")
        assert directory["metadata"]["labels"]["modelport.dev/stack"] == "dev"
        assert directory["data"]["caller.road-service"].startswith("modelport-serving/")
        outputs = made.engine.outputs()
        assert outputs["context"] == {"name": "modelport-test"}
        assert str(cluster.kubeconfig) not in str(made.engine.export()), "somebody else's is elsewhere"
        assert outputs["urls"]["gateway"] == "https://models.example.org"
        assert set(outputs["credentials"]) == {"gateway key of hospital", "gateway key of road-service"}


def test_the_program_loads_nothing_of_googles_that_it_does_not_use():
    """It is most of what a preview of a stack without anything of Google's would take."""
    program = (
        "import infra.platform, sys; print('pulumi_gcp' in sys.modules, 'pulumi_gcp.compute.network' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
