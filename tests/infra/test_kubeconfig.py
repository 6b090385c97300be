"""Where a kubeconfig leads, and what is said when it leads nowhere."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pulumi
import pytest
import yaml

from components.versions import KUBERNETES_MINIMUM
from infra import cluster, kubeconfig
from infra.settings import parse
from modelport.errors import BadInput, Refused, Unavailable
from tests.components.recording import record


def write(path, server="https://127.0.0.1:6443", current="here", name="here", **more):
    content = {
        "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **more}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    if current:
        content["current-context"] = current
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_context_that_is_not_set_is_refused_with_the_command_that_sets_the_current_one(tmp_path):
    with pytest.raises(BadInput, match="the current one is 'here'") as caught:
        kubeconfig.find(write(tmp_path / "config"), None)
    assert caught.value.key == "modelport:cluster.context"
    assert caught.value.remedy.startswith("pulumi config set --path modelport:cluster.context here")


def test_the_environment_names_the_files(tmp_path, monkeypatch):
    files = [write(tmp_path / "one"), str(tmp_path / "nowhere"), write(tmp_path / "two", name="there", current=None)]
    monkeypatch.setenv("KUBECONFIG", ":".join(files))
    assert kubeconfig.find(None, "here").context == "here"
    assert kubeconfig.find(None, "there").file == ":".join(files)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput) as caught:
        kubeconfig.find(str(tmp_path / "nowhere"), "here")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert caught.value.key == "modelport:cluster.kubeconfig"


@pytest.mark.parametrize("text", ["- a list", "a: [", "\x00", "", "contexts: [here]"])
def test_what_is_no_kubeconfig_is_refused(tmp_path, text):
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(BadInput, match="is no kubeconfig"):
        kubeconfig.find(str(file), "here")


def test_an_unknown_context_lists_those_there_are(tmp_path):
    with pytest.raises(BadInput, match="no context 'other'") as caught:
        kubeconfig.find(write(tmp_path / "config"), "other")
    assert "here" in str(caught.value)


@contextmanager
def answering(version=KUBERNETES_MINIMUM, directory=(404, {})) -> Iterator[str]:
    """An API server, or a proxy before it, that knows its version and the stack's ConfigMap."""
    major, minor = version
    said = {"gitVersion": f"v{major}.{minor}.5-gke.100", "major": str(major), "minor": f"{minor}+"}
    rest = ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked_version = self.path.rstrip("/").endswith("/version")
            code, answer = (200, {**dict.fromkeys(rest, ""), **said}) if asked_version else directory
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_server_that_does_not_answer_is_told_before_anything_is_made(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound and not listening: refused for as long as we hold it
        config = kubeconfig.find(write(tmp_path / "config", f"https://127.0.0.1:{port}"), "here")
        with pytest.raises(Unavailable, match="does not answer"):
            kubeconfig.look(config, "dev")


def test_a_server_that_answers_is_fine_behind_a_proxy_too(tmp_path):
    with answering() as url:
        kubeconfig.look(kubeconfig.find(write(tmp_path / "config", url), "here"), "dev")
        behind = write(tmp_path / "behind", "http://cluster.invalid", **{"proxy-url": url})
        kubeconfig.look(kubeconfig.find(behind, "here"), "dev")


MINE, THEIRS = ((200, {"metadata": {"labels": {"modelport.dev/stack": stack}}}) for stack in ("dev", "prod"))
OLD = (KUBERNETES_MINIMUM[0], KUBERNETES_MINIMUM[1] - 1)


@pytest.mark.parametrize(
    ("server", "error", "said"),
    [
        ({"directory": MINE}, None, ""),
        ({"directory": THEIRS}, BadInput, "has stack 'prod' already"),
        ({"directory": (403, {})}, Refused, "does not let you read ConfigMap modelport-registry/modelport-directory"),
        ({"directory": (500, {})}, Unavailable, "does not work: 500"),
        ({"version": OLD}, BadInput, f"is Kubernetes v{OLD[0]}.{OLD[1]}.5"),
    ],
    ids=["this stack", "another stack", "no rights", "broken", "too old"],
)
def test_another_stack_and_an_old_cluster_are_told_before_anything_is_made(tmp_path, server, error, said):
    with answering(**server) as url:
        config = kubeconfig.find(write(tmp_path / "config", url), "here")
        if error is None:
            kubeconfig.look(config, "dev")
            return
        with pytest.raises(error) as caught:
            kubeconfig.look(config, "dev")
        assert said in str(caught.value)


@pytest.mark.parametrize("named", [True, False])
def test_where_this_persons_kubeconfig_is_gets_neither_into_the_state_nor_into_outputs(tmp_path, monkeypatch, named):
    monkeypatch.setattr(kubeconfig, "look", lambda *_: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", write(tmp_path / "config") if not named else "/nowhere")
    write(tmp_path / "config")
    of_stack = {"kubeconfig": "~/config"} if named else {}
    kind = {"kind": "existing", "context": "here", "nodes": {"all": {"cpus": 4, "memory": "8Gi"}}, **of_stack}
    settings = parse({"owner": "me", "image": "registry.example.org/platform:1", "cluster": kind}, "dev")
    seen = []

    def build():
        made = cluster.build(settings, None, {})
        pulumi.Output.all(made.credentials, made.context).apply(seen.extend)

    (provider,) = record(build)
    assert provider.inputs["kubeconfig"] == of_stack.get("kubeconfig", "")
    assert provider.inputs["context"] == "here"
    assert seen[1] == {"name": "here", **of_stack}
    assert str(tmp_path) not in f"{provider.inputs} {seen}"
