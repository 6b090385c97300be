"""Files that the programs of a node are configured by."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NODE = "node-0"
NODE_ADDRESS = "192.0.2.10"
POD_NETWORK = "198.18.0.0/24"
SERVICE_NETWORK = "198.19.0.0/16"
DNS_ADDRESS = "198.19.0.10"
API_PORT = 6443

PAUSE_IMAGE = "registry.k8s.io/pause:3.10"

ANNOUNCE = "announce"
"""Name of the network plugin of ours; see `tests/cluster/announce.py`."""

HIDDEN = ("/run", "/var/log", "/var/lib")
"""Where programs of a node write whatever they are told; in the cell these are empty, and go with it."""

PREPARATION = f"""\
set -eu
mount --make-rshared /
for folder in {" ".join(HIDDEN)}; do mount -t tmpfs tmpfs "$folder"; done
ip link set lo up
# The node's own address, which pods reach it by. Both ends stay here: not every kernel has a dummy device.
ip link add node0 type veth peer name node0-peer
ip address add {NODE_ADDRESS}/24 dev node0
ip link set node0-peer up
ip link set node0 up
# Kubelet and API server want one; it leads nowhere.
ip route add default dev node0
# Between two pods on one bridge, too, a Service's address is translated and policies are enforced.
if [ ! -e /proc/sys/net/bridge ]; then modprobe br_netfilter; fi
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
"""
"""Run by a shell in the cell before anything else."""


def containerd(state: Path, root: Path, plugins: Sequence[Path]) -> str:
    """Configuration of containerd, as TOML.

    Args:
        state: folder of what is gone after a stop.
        root: folder of images, which stay.
        plugins: folders with the programs that set up pods' networks.
    """

    def quoted(value: Path) -> str:
        return json.dumps(str(value))

    return f"""\
version = 3
root = {quoted(root)}
state = {quoted(state / "containerd")}

[grpc]
address = {quoted(socket(state))}

[plugins.'io.containerd.internal.v1.opt']
path = {quoted(state / "opt")}

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = {json.dumps(PAUSE_IMAGE)}

[plugins.'io.containerd.cri.v1.runtime']
# A container host may lack CAP_SYS_RESOURCE.
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [{", ".join(map(quoted, plugins))}]
conf_dir = {quoted(state / "cni")}
"""


def socket(state: Path) -> Path:
    """Where containerd answers."""
    return state / "containerd.sock"


def policies_socket(state: Path) -> Path:
    """Where the enforcer hears of new pods."""
    return state / "policies.sock"


def pod_network(state: Path) -> dict[str, Any]:
    """How a pod gets its network: a bridge, an address, ports of the node where it asks for them, its policies."""
    addresses = {
        "type": "host-local",
        "dataDir": str(state / "addresses"),
        "ranges": [[{"subnet": POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {"type": "bridge", "bridge": "pods0", "isGateway": True, "hairpinMode": True, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": ANNOUNCE, "socket": str(policies_socket(state))},
        ],
    }


def kubelet(state: Path, group: str) -> dict[str, Any]:
    """Configuration of the kubelet: pods may have the whole machine, and nobody but the API server may ask it."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(state / "certs" / "ca.crt")},
        },
        # Whoever has a certificate, which is the API server.
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group}",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "containerRuntimeEndpoint": f"unix://{socket(state)}",
        "podLogsDir": str(state / "pod-logs"),
        "volumePluginDir": str(state / "volume-plugins"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_ADDRESS],
        "resolvConf": "",
        "failSwapOn": False,
        # Images were imported, and cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi"},
        # A container host may lack CAP_SYS_RESOURCE, and the kernel's log.
        "featureGates": {"KubeletInUserNamespace": True},
    }


def kube_proxy(kubeconfig: Path) -> dict[str, Any]:
    """Configuration of kube-proxy; settings of the whole machine stay as they are."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": POD_NETWORK,
        "mode": "iptables",
        # A Service that is there is reached at once.
        "iptables": {"minSyncPeriod": "100ms"},
        "hostnameOverride": NODE,
        "healthzBindAddress": "127.0.0.1:10256",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
    }
