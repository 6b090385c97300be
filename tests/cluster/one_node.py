"""A real Kubernetes of one node on this machine: pods really run, in namespaces of their own, and leave nothing.

Real are: everything that `Kept` has, kubelet, containerd, runc, kube-proxy, CoreDNS. The provisioner of volumes
(`volumes`) and the enforcer of NetworkPolicies (`enforcer`) are ours, because no kept one can be built from modules.
``docs/cluster-on-one-machine.md`` says what differs from a cluster of machines.

It takes root on Linux, and `PACKAGES`, which are installed where that can be done (`why_not`).
"""

import fcntl
import hashlib
import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster import cell, dns, meter, node_configuration, volumes
from tests.cluster.client import ClusterError, condition_of
from tests.cluster.configuration import kubeconfig, write_json
from tests.cluster.kept import PROGRAMS, ROOT, Kept, path
from tests.cluster.meter import PodUsed, Used
from tests.cluster.node_configuration import API_PORT, NODE, NODE_ADDRESS, PAUSE_IMAGE, SERVICE_NETWORK
from tools import program
from tools.cache import cache_folder
from tools.debian import PackagesMissing, need
from tools.images import write_archive
from tools.scratch_image import archive

PACKAGES = ("runc", "nftables", "iptables", "iproute2", "util-linux", "e2fsprogs")

_NODE_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy", "bridge", "coredns", "pause")
_PREFIX = "modelport-node-"
_LOCK_S = 1800.0
_LOG_LINES = 30


def why_not() -> str | None:
    """Why there can be no cluster on this machine, for people; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a cluster with real pods takes root on Linux"
    try:
        need(*PACKAGES)
    except PackagesMissing as error:
        return f"a cluster with real pods takes {', '.join(PACKAGES)}: {error}"
    return None


class OneNode(Kept):
    """A cluster of one node; see `Kept`. `kubeconfig` and `url` work from the machine's own network.

    Args:
        root: folder of its images, which stay for the next cluster; by default in this user's cache. One cluster at a
            time uses it: the next waits for it.
    """

    def __init__(self, root: Path | None = None) -> None:
        super().__init__()
        self._root = (root or cache_folder(os.environ).parent / "one-node").absolute()
        self._measured_last: tuple[Used, list[PodUsed]] = (Used(), [])
        self._group = f"modelport-{hashlib.sha256(str(self._root).encode()).hexdigest()[:8]}"

    def start(self) -> None:
        """Bring it up: when this returns, pods run, names of Services resolve, claims are bound.

        Raises:
            ClusterError: it cannot be on this machine, a process ended, or something took longer than a minute.
        """
        self._refuse_another_start()
        reason = why_not()
        if reason is not None:
            raise ClusterError(reason)
        _refuse_hidden(self._root, Path(tempfile.gettempdir()), ROOT, Path(sys.prefix))
        programs = {name: program(name) for name in (*PROGRAMS, *_NODE_PROGRAMS)}
        self._root.mkdir(parents=True, exist_ok=True)
        lock = _locked(self._root / "lock")
        listener = socket.create_server(("127.0.0.1", 0))
        try:
            self._clean_what_was_killed()
            state = Path(tempfile.mkdtemp(prefix=_PREFIX))
            (self._root / "state").write_text(str(state))
            # The lock is held until the keeper ends, whoever is killed before.
            files = (listener.fileno(), lock)
            command = [sys.executable, "-m", "tests.cluster.cell", state, self._group, *map(str, files)]
            self._keep(state, command, files)
            self._bring_up(programs, listener)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(lock)
            listener.close()

    def stop(self) -> None:
        """End every process and remove every file but the images; does nothing when that has been done."""
        self._measure()
        super().stop()

    # Images

    def import_image(self, file: Path) -> None:
        """Import the images of an archive, under the names that it gives them; once, whoever asks again.

        Args:
            file: as Docker saves it, or an OCI archive that says ``io.containerd.image.name``.

        Raises:
            ClusterError: it cannot be imported.
        """
        stamp = file.stat()
        key = hashlib.sha256(f"{file.absolute()} {stamp.st_size} {stamp.st_mtime_ns}".encode()).hexdigest()
        record = self._root / "imported" / key
        if record.is_file() and json.loads(record.read_text()).items() <= self._image_digests().items():
            return
        names = _names_in(file)
        self._ctr("images", "import", "--local", str(file))
        digests = self._image_digests()
        missing = [name for name in names if name not in digests]
        if missing or not names:
            raise ClusterError(f"{file} names no image, or they were not imported: {', '.join(missing)}")
        record.parent.mkdir(exist_ok=True)
        new = record.with_suffix(".new")
        new.write_text(json.dumps({name: digests[name] for name in names}))
        new.replace(record)

    def import_layout(self, layout: Path) -> None:
        """Import an image from a folder in OCI's layout, without the layers that are there; once, whoever asks again.

        Args:
            layout: of one image, whose index says ``io.containerd.image.name``; `tools.images` makes such.

        Raises:
            ClusterError: it cannot be imported.
        """
        (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
        name: str = entry["annotations"]["io.containerd.image.name"]
        if self._image_digests().get(name) == entry["digest"]:
            return
        present = self._ctr("content", "ls", "--quiet").split()
        command = self._ctr_command("images", "import", "--local", "-")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as running:
            assert running.stdin is not None
            with suppress(BrokenPipeError):
                write_archive(layout, running.stdin, present)
            _, said = running.communicate()
        if running.returncode or self._image_digests().get(name) != entry["digest"]:
            raise ClusterError(
                f"{name} was not imported from {layout}: {said.decode().strip()}\n{self.log('containerd')}"
            )
        self._forget_replaced()

    def images(self) -> list[str]:
        """Names of the images that pods can have."""
        return sorted(name for name in self._image_digests() if not name.startswith("sha256:"))

    # Looking at it

    def inside(self, *command: str) -> list[str]:
        """A command that runs another in the cluster's network."""
        pid = (self.state / "cell.pid").read_text()
        return ["nsenter", f"--net=/proc/{pid}/ns/net", *command]

    def memory(self) -> int:
        """The most that all pods and programs have used together, in bytes; see `Used`. Known after a stop, too."""
        return self._measure()[0].peak

    def pods_used(self) -> list[PodUsed]:
        """What each pod uses and has used, beside what it asked for, by name; pods that are gone too."""
        return sorted(self._measure()[1], key=lambda used: used.pod)

    def logs(self, namespace: str, lines: int = _LOG_LINES) -> str:
        """The last lines of every container in a namespace."""
        return "\n".join(
            _titled(name, text) for pod in self._pods(namespace) for name, text in self._logs_of(pod, lines)
        )

    def events(self, namespace: str) -> str:
        """What was told of the objects in a namespace, the latest last."""
        items = self.get(f"/api/v1/namespaces/{namespace}/events")["items"]
        return "\n".join(_event(item) for item in sorted(items, key=_when))

    def report(self) -> str:
        """For the message of a failure: programs that ended, pods that are not ready, their events and last lines."""
        parts = [
            _titled(f"{name} has ended with status {self._ended(name)}", self.log(name))
            for name in sorted(file.name for file in (self.state / "ended").iterdir())
            if self._ended(name) != "0"
        ]
        try:
            parts += self._unready()
        except (OSError, http.client.HTTPException) as error:
            # With what has ended, that may be the reason.
            parts.append(f"the API server does not tell of pods: {error}")
        return "\n".join(parts) or "all programs run, and all pods are ready"

    def _unready(self) -> list[str]:
        """Pods that are not ready, their events and last lines."""
        parts: list[str] = []
        for pod in self._pods():
            if pod["status"].get("phase") == "Succeeded" or condition_of(pod, "Ready") == "True":
                continue
            metadata = pod["metadata"]
            about = f"involvedObject.name={metadata['name']}"
            told = self.get(f"/api/v1/namespaces/{metadata['namespace']}/events?fieldSelector={about}")["items"]
            parts.append(_titled(f"pod {metadata['namespace']}/{metadata['name']} is not ready", _states(pod)))
            parts += [_event(item) for item in sorted(told, key=_when)]
            parts += [_titled(name, text) for name, text in self._logs_of(pod, _LOG_LINES)]
        return parts

    # Harm

    def restart_containerd(self) -> None:
        """Kill containerd and start it again, as after a crash; pods run on meanwhile.

        Raises:
            ClusterError: it does not come back within a minute.
        """
        self._kill("containerd")
        self._launch_containerd()
        self.wait_for("containerd", "answers", self._containerd_answers)

    @contextmanager
    def cut_off(self, namespace: str, pod: str, port: int) -> Generator[None]:
        """Refuse a pod's connections to a port, wherever it is, for a while; those that are open, too."""
        address = self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["status"]["podIP"]
        rule = ("FORWARD", *("-s", address, "-p", "tcp", "--dport", str(port)), *("-j", "REJECT"))
        self._iptables("-I", *rule)
        try:
            yield
        finally:
            self._iptables("-D", *rule)

    def _iptables(self, *arguments: str) -> None:
        command = self.inside("iptables", "--wait", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"iptables {' '.join(arguments)}: {done.stderr.strip()}")

    # Bringing it up

    def _bring_up(self, programs: Mapping[str, Path], listener: socket.socket) -> None:
        self._launch("preparation", ["sh", "-c", node_configuration.PREPARATION])
        self.wait_for("preparation", "makes mounts and network", lambda: self._ended("preparation") == "0")
        self._write_pod_network()
        plugins = [programs["bridge"].parent, self.state / "plugins"]
        (self.state / "containerd.toml").write_text(
            node_configuration.containerd(self.state, self._root / "containerd", plugins)
        )
        self._launch_containerd()
        self._launch_ours("relay", str(listener.fileno()), "127.0.0.1", str(API_PORT), files=[listener.fileno()])
        certs = self.state / "certs"
        self._start_api_server(
            programs,
            bind="0.0.0.0",
            port=API_PORT,
            url=f"https://127.0.0.1:{listener.getsockname()[1]}",
            advertised=NODE_ADDRESS,
            services=SERVICE_NETWORK,
            more=[
                "--kubelet-preferred-address-types=InternalIP",
                f"--kubelet-client-certificate={certs / 'api-client.crt'}",
                f"--kubelet-client-key={certs / 'api-client.key'}",
            ],
        )
        inside = self.state / "inside.kubeconfig"
        authority = (certs / "ca.crt").read_bytes()
        write_json(inside, kubeconfig(f"https://127.0.0.1:{API_PORT}", self.token, authority))
        self.wait_for("containerd", "answers", self._containerd_answers)
        self._forget_containers()
        self.import_image(archive(programs["pause"], PAUSE_IMAGE))
        self.import_image(archive(programs["coredns"], dns.IMAGE))
        self.wait_for("kube-apiserver", "is ready", self._ready)
        self._start_controllers(programs, inside)
        self._start_node(programs, inside)
        self.apply(*volumes.storage_classes(), *dns.manifests(node_configuration.DNS_ADDRESS))
        self.wait_for("kube-controller-manager", "makes service accounts", self._accounts_made)
        self.wait_for("kubelet", "makes its node ready", self._node_ready)
        try:
            self.wait_for("kubelet", "runs the DNS server", lambda: _all_ready(self._pods("kube-system")))
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.report()}") from error

    def _write_pod_network(self) -> None:
        """How a pod gets its network, the last step of it a plugin of ours."""
        (self.state / "cni").mkdir()
        write_json(self.state / "cni" / "pods.conflist", node_configuration.pod_network(self.state))
        (self.state / "plugins").mkdir()
        plugin = self.state / "plugins" / node_configuration.ANNOUNCE
        script = ROOT / "tests" / "cluster" / "announce.py"
        # The runtime calls it without an environment of ours; a first line of its own could be too long.
        plugin.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(script))}\n")
        plugin.chmod(0o755)

    def _start_node(self, programs: Mapping[str, Path], inside: Path) -> None:
        write_json(self.state / "kubelet.json", node_configuration.kubelet(self.state, self._group))
        write_json(self.state / "kube-proxy.json", node_configuration.kube_proxy(inside))
        self._launch(
            "kubelet",
            [
                programs["kubelet"],
                "--config=kubelet.json",
                f"--kubeconfig={inside}",
                f"--root-dir={self.state / 'kubelet'}",
                f"--cert-dir={self.state / 'certs'}",
                f"--hostname-override={NODE}",
                f"--node-ip={NODE_ADDRESS}",
            ],
        )
        self._launch("kube-proxy", [programs["kube-proxy"], "--config=kube-proxy.json"])
        self._launch_ours("enforcer", inside, node_configuration.policies_socket(self.state))
        self._launch_ours("volumes", inside, self.state / "volumes")
        self._launch_ours("meter", inside, self._group, self._used_file)

    def _launch_containerd(self) -> None:
        folder = program("containerd").parent
        # It looks for its shim and for runc there.
        environment = {"PATH": f"{folder}:{path()}"}
        self._launch("containerd", [folder / "containerd", "--config=containerd.toml"], environment)

    def _containerd_answers(self) -> bool:
        done = subprocess.run(self._ctr_command("version"), capture_output=True, check=False)
        return done.returncode == 0

    def _forget_containers(self) -> None:
        """Of the cluster before this one images are kept, and not what its pods were."""
        left = self._ctr("containers", "ls", "-q").split()
        if left:
            self._ctr("containers", "rm", *left)
            sandboxes = [line.split()[0] for line in self._ctr("sandboxes", "ls").splitlines()[1:]]
            if sandboxes:
                self._ctr("sandboxes", "rm", *sandboxes)
            # It read them when it started.
            self.restart_containerd()

    def _clean_what_was_killed(self) -> None:
        """Remove what a cluster left whose every process was killed, even those that would have cleaned up."""
        record = self._root / "state"
        if record.is_file():
            left = Path(record.read_text())
            if left.name.startswith(_PREFIX):
                cell.clean(left, self._group)
            record.unlink()

    # Asking

    def _ctr_command(self, *arguments: str) -> list[str]:
        return [
            str(program("ctr")),
            f"--address={node_configuration.socket(self.state)}",
            "--namespace=k8s.io",
            *arguments,
        ]

    def _ctr(self, *arguments: str) -> str:
        done = subprocess.run(self._ctr_command(*arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}\n{self.log('containerd')}")
        return done.stdout

    def _forget_replaced(self) -> None:
        """Free the room of images that others of the same name replaced: the runtime's own names for them hold it."""
        digests = self._image_digests()
        named = {digest for name, digest in digests.items() if not name.startswith("sha256:")}
        replaced = [name for name, digest in digests.items() if digest not in named]
        if replaced:
            self._ctr("images", "rm", "--sync", *replaced)

    def _image_digests(self) -> dict[str, str]:
        lines = self._ctr("images", "ls").splitlines()[1:]
        return {name: digest for name, _, digest, *_ in (line.split() for line in lines)}

    @property
    def _used_file(self) -> Path:
        return self.state / "used.json"

    def _measure(self) -> tuple[Used, list[PodUsed]]:
        if self._keeper is not None and self._used_file.is_file():
            self._measured_last = meter.read(self._used_file)
        return self._measured_last

    def _node_ready(self) -> bool:
        node = self.find(f"/api/v1/nodes/{NODE}")
        return node is not None and condition_of(node, "Ready") == "True" and not node["spec"].get("taints")

    def _pods(self, namespace: str | None = None) -> list[dict[str, Any]]:
        place = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        pods: list[dict[str, Any]] = self.get(place)["items"]
        return pods

    def _logs_of(self, pod: Mapping[str, Any], lines: int) -> Iterator[tuple[str, str]]:
        """What each container of a pod wrote last, and of one that was started again what it wrote before."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        status = pod["status"]
        for found in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            for previous in (True, False) if found["restartCount"] else (False,):
                title = f"{namespace}/{name} {found['name']}{', before it was started again' if previous else ''}"
                options = [f"--container={found['name']}", f"--tail={lines}", *(["--previous"] if previous else [])]
                try:
                    yield title, self.kubectl("logs", f"--namespace={namespace}", name, *options)
                except ClusterError as error:
                    yield title, str(error)


def _locked(file: Path) -> int:
    """A descriptor that holds a lock on a file; whoever inherits it holds it too."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise ClusterError(f"not within {_LOCK_S:.0f} s: the cluster that uses {file.parent} ends") from None
            time.sleep(0.2)
        else:
            return descriptor


def _refuse_hidden(*folders: Path) -> None:
    for folder in folders:
        for hidden in node_configuration.HIDDEN:
            if folder.is_relative_to(hidden):
                raise ClusterError(f"{folder} is not seen in a cluster, which has {hidden} for itself: use another")


def _names_in(file: Path) -> list[str]:
    """Names that the images of an archive get when they are imported."""
    with tarfile.open(file) as tar:
        if "manifest.json" in tar.getnames():
            images = json.load(_opened(tar, "manifest.json"))
            return [name for image in images for name in image.get("RepoTags") or []]
        images = json.load(_opened(tar, "index.json"))["manifests"]
    told = (image.get("annotations", {}).get("io.containerd.image.name") for image in images)
    return [name for name in told if name]


def _opened(tar: tarfile.TarFile, name: str) -> Any:
    opened = tar.extractfile(name)
    assert opened is not None, f"{name} is a file"
    return opened


def _all_ready(pods: Sequence[Mapping[str, Any]]) -> bool:
    return bool(pods) and all(condition_of(pod, "Ready") == "True" for pod in pods)


def _states(pod: Mapping[str, Any]) -> str:
    """Why a pod is not ready, as its status tells."""
    status = pod["status"]
    lines = [f"phase {status.get('phase')}"]
    lines += [
        f"{found['type']} is {found['status']}: {found.get('reason', '')} {found.get('message', '')}".rstrip()
        for found in status.get("conditions", [])
        if found["status"] != "True"
    ]
    for found in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = {**found.get("state", {}), **{f"last {kind}": its for kind, its in found.get("lastState", {}).items()}}
        lines += [f"{found['name']}, {found['restartCount']} restarts, {kind}: {its}" for kind, its in state.items()]
    return "\n".join(lines)


def _event(item: Mapping[str, Any]) -> str:
    about = item["involvedObject"]
    times = f" ({item['count']} times)" if item.get("count", 1) > 1 else ""
    return f"{item['type']} {item['reason']} {about['kind']} {about.get('name', '')}: {item.get('message', '')}{times}"


def _when(item: Mapping[str, Any]) -> str:
    return item.get("lastTimestamp") or item.get("eventTime") or item["metadata"]["creationTimestamp"]


def _titled(title: str, text: str) -> str:
    body = "\n".join(f"  {line}" for line in text.splitlines())
    return f"{title}\n{body}" if body else title
