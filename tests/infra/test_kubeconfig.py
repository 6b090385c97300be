"""Where a kubeconfig leads, and what is said when it leads nowhere."""

import socket

import pytest
import yaml

from infra import kubeconfig
from modelport.errors import BadInput, Unavailable


def write(path, server="https://127.0.0.1:6443", current="here"):
    content = {
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
    }
    if current:
        content["current-context"] = current
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_the_current_context_is_taken(tmp_path):
    found = kubeconfig.find(write(tmp_path / "config"), None)
    assert (found.context, found.server) == ("here", "https://127.0.0.1:6443")


def test_the_environment_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", write(tmp_path / "config"))
    assert kubeconfig.find(None, None).path == tmp_path / "config"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput) as caught:
        kubeconfig.find(str(tmp_path / "nowhere"), None)
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert caught.value.key == "modelport:cluster.kubeconfig"


@pytest.mark.parametrize("text", ["- a list", "a: [", "\x00"])
def test_what_is_no_kubeconfig_is_refused(tmp_path, text):
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(BadInput, match="is no kubeconfig"):
        kubeconfig.find(str(file), None)


def test_an_unknown_context_lists_those_there_are(tmp_path):
    with pytest.raises(BadInput, match="no context 'other'") as caught:
        kubeconfig.find(write(tmp_path / "config"), "other")
    assert "here" in str(caught.value)


def test_a_server_that_does_not_answer_is_told_before_anything_is_made(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound and not listening: refused for as long as we hold it
        config = kubeconfig.find(write(tmp_path / "config", f"https://127.0.0.1:{port}"), None)
        with pytest.raises(Unavailable, match="does not answer"):
            kubeconfig.reach(config)
        taken.listen()
        kubeconfig.reach(config)
