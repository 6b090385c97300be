"""Which cluster a stack is in: what Pulumi's outputs add to a kubeconfig. `pulumi` is a script that prints outputs."""

import json
from pathlib import Path

import pytest

from tests.remote.conftest import STACK, Person, Stack


@pytest.fixture
def reader(stack: Stack, tmp_path: Path) -> Person:
    """Somebody whose current context is another cluster's, where nobody answers."""
    made = stack.person("reader", tmp_path / "reader")
    config = json.loads(made.kubeconfig.read_text())
    config["clusters"].append({"name": "away", "cluster": {"server": "https://127.0.0.1:9"}})
    config["contexts"].append({"name": "away", "context": {"cluster": "away", "user": "modelport-test"}})
    config["current-context"] = "away"
    made.kubeconfig.write_text(json.dumps(config))
    return made


@pytest.fixture
def project_file(stack: Stack) -> None:
    (stack.project / "Pulumi.yaml").write_text("name: modelport\n")


def pulumi(person: Person, outputs: object, code: int = 0) -> None:
    """Let Pulumi say this; what it was asked goes to a file."""
    folder = person.folder / "bin"
    (folder / "outputs.json").write_text(json.dumps(outputs))
    script = folder / "pulumi"
    script.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\ncat {folder}/outputs.json\nexit {code}\n')
    script.chmod(0o755)


@pytest.mark.usefixtures("project_file")
def test_the_stacks_outputs_name_the_context_and_no_secret_is_asked_for(reader: Person) -> None:
    pulumi(reader, {"context": {"name": "modelport-test"}, "cluster": "gcloud ..."})
    done = reader.run("connect", STACK, "--", "true")
    assert done.returncode == 0, done.stderr
    asked = (reader.folder / "bin" / "asked").read_text().split()
    assert asked[:3] == ["stack", "output", "--json"]
    assert "--show-secrets" not in asked
    # What the user says goes first.
    done = reader.run("connect", STACK, "--context", "away", "--", "true")
    assert done.returncode == 5


@pytest.mark.usefixtures("project_file")
def test_a_cluster_that_the_kubeconfig_does_not_have_is_told_with_the_way_to_get_it(reader: Person) -> None:
    pulumi(reader, {"context": {"name": "gke_p_l_dev"}, "cluster": "gcloud container clusters get-credentials dev"})
    done = reader.run("connect", STACK, "--", "true")
    assert done.returncode == 2
    assert "'gke_p_l_dev', which your kubeconfig does not have" in done.stderr
    assert "run `gcloud container clusters get-credentials dev`" in done.stderr


@pytest.mark.usefixtures("project_file")
def test_a_kubeconfig_of_the_stacks_own_is_taken_where_it_is(reader: Person) -> None:
    own = reader.folder / "own-kubeconfig"
    config = json.loads(reader.kubeconfig.read_text())
    own.write_text(json.dumps({**config, "contexts": [{**config["contexts"][0], "name": "theirs"}]}))
    reader.environment["HOME"] = str(reader.folder)
    pulumi(reader, {"context": {"name": "theirs", "kubeconfig": "~/own-kubeconfig"}})
    seen = reader.session()
    assert set(seen["files"]) == {"look"}


@pytest.mark.usefixtures("project_file")
@pytest.mark.parametrize(("outputs", "code"), [({}, 0), ("nonsense", 0), ({"context": "old"}, 0), ({}, 255)])
def test_without_outputs_the_current_context_is_taken(reader: Person, outputs: object, code: int) -> None:
    pulumi(reader, outputs, code)
    done = reader.run("connect", STACK, "--", "true")
    assert done.returncode == 5
    assert "the cluster of context 'away' does not answer" in done.stderr
