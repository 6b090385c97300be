"""`modelport connect` against a real API server, with RBAC as the real program makes it, and a real object store."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from modelport.contract import find_model
from modelport.remote import Use
from tests.remote.conftest import EVERYBODY, STACK, Person, Stack, end, until


@pytest.fixture
def people(stack: Stack, tmp_path: Path) -> dict[str, Person]:
    stack.plan()
    return {name: stack.person(name, tmp_path / name) for name in EVERYBODY}


def holders(person: Person, *options: str) -> dict[str, set[str]]:
    """For each connection in a session: whose credentials are in it, to anything."""
    found: dict[str, set[str]] = {}
    for use, content in person.session(*options)["files"].items():
        keys = {key["access_key"].split("-")[0] for key in content["s3_keys"].values()}
        logins = {content["tracking_username"]} - {None}
        caller = (content["gateway_api_key"] or "").removeprefix("generated-for-gateway-key-")
        found[use] = (keys | logins | {caller}) - {""}
    return found


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("reader", {"look": {"reader"}}),
        ("trainer", {"look": {"reader"}, "train": {"trainer"}, "export": {"reader", "trainer"}, "list": {"trainer"}}),
        (
            "promoter",
            {"look": {"reader"}, "decide": {"promoter"}, "push": {"promoter"}, "list": {"promoter"}},
        ),
        ("hospital", {"ask": {"hospital"}}),
    ],
)
def test_each_kind_of_command_gets_what_it_needs_of_what_its_user_may_have(
    people: dict[str, Person], who: str, expected: dict[str, set[str]]
) -> None:
    assert holders(people[who]) == expected


def test_credentials_are_readable_by_their_owner_only_and_go_with_the_session(people: dict[str, Person]) -> None:
    trainer = people["trainer"]
    seen = trainer.session()
    assert seen["folder"] == 0o700
    assert {file["mode"] for file in seen["files"].values()} == {0o600}
    assert seen["variables"]["MODELPORT_STACK"] == STACK
    assert "MODELPORT_CONNECTION" not in seen["variables"], "which one it is depends on the command"
    assert trainer.left() == []
    cluster = seen["files"]["train"]["cluster"]
    assert cluster["namespace"] == "modelport-training"
    assert seen["files"]["look"]["cluster"] is None


def test_a_program_of_ones_own_gets_the_role_that_was_asked_for(people: dict[str, Person]) -> None:
    promoter = people["promoter"]
    seen = promoter.session("--role", "reader")
    named = Path(seen["variables"]["MODELPORT_CONNECTION"]).stem
    assert {key["access_key"] for key in seen["files"][named]["s3_keys"].values()} == {"reader"}
    assert "decide" not in seen["files"]
    done = promoter.run("connect", STACK, "--role", "trainer", "--", "true")
    assert done.returncode == 6
    assert "role trainer is not yours" in done.stderr
    assert "cannot get resource" in done.stderr


def test_whose_key_the_gateway_gets_is_never_a_guess(people: dict[str, Person]) -> None:
    both = people["hospital-and-road"]
    done = both.run("connect", STACK, "--", "modelport", "predict", "dry_wet", "x.png")
    assert done.returncode == 6
    assert "say which with --key" in done.stderr
    assert holders(both, "--key", "road") == {"ask": {"road"}}
    done = both.run("connect", STACK, "--key", "nobody", "--", "true")
    assert done.returncode == 2
    assert "hospital, road" in done.stderr
    done = people["hospital"].run("connect", STACK, "--key", "road", "--", "true")
    assert done.returncode == 6
    assert "the key of caller road is not yours" in done.stderr


def test_an_administrator_needs_no_role(stack: Stack, people: dict[str, Person]) -> None:
    admin = people["nobody"]
    admin.kubeconfig.write_text(stack.control_plane.kubeconfig.read_text())
    held = holders(admin, "--key", "hospital")
    assert set(held) == set(Use)
    assert held[Use.LOOK] == {"reader"}, "nor does he get more than he needs"
    assert held[Use.LOAD] == {"reader", "hospital"}


def test_what_is_wrong_is_said(stack: Stack, people: dict[str, Person], tmp_path: Path) -> None:
    done = people["nobody"].run("connect", STACK, "--", "true")
    assert done.returncode == 6
    assert "you have no role in the stack" in done.stderr

    done = people["reader"].run("connect", STACK, "--", "modelport", "promote", "dry_wet")
    assert done.returncode == 6
    assert "connection-promoter-1-1" in done.stderr
    assert "cannot get resource" in done.stderr

    reader = people["reader"]
    done = reader.run("connect", "prod", "--", "true")
    assert done.returncode == 2
    assert "is of stack 'dev', not 'prod'" in done.stderr

    done = reader.run("connect", STACK, "--context", "elsewhere", "--", "true")
    assert done.returncode == 2
    assert "there is no context 'elsewhere'" in done.stderr
    assert "modelport-test" in done.stderr

    config = json.loads(reader.kubeconfig.read_text())
    good = config["users"][0]["user"]
    config["users"][0]["user"] = {"token": "expired"}
    reader.kubeconfig.write_text(json.dumps(config))
    done = reader.run("connect", STACK, "--", "true")
    assert done.returncode == 6
    assert "expired, or wrong" in done.stderr

    config["users"][0]["user"] = good
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    reader.kubeconfig.write_text(json.dumps(config))
    done = reader.run("connect", STACK, "--", "true")
    assert done.returncode == 5
    assert "does not answer" in done.stderr

    reader.kubeconfig.unlink()
    done = reader.run("connect", STACK, "--", "true")
    assert done.returncode == 2
    assert "no cluster is to be found" in done.stderr
    assert not any("Traceback" in text for text in (done.stderr, done.stdout))


def test_a_cluster_without_a_stack_is_told(stack: Stack, tmp_path: Path) -> None:
    path = "/api/v1/namespaces/modelport-registry/configmaps"
    kept = stack.control_plane.get(f"{path}/modelport-directory")
    stack.control_plane.request("DELETE", f"{path}/modelport-directory")
    try:
        done = stack.person("reader", tmp_path / "somebody").run("connect", STACK, "--", "true")
    finally:
        del kept["metadata"]["resourceVersion"]
        stack.control_plane.request("POST", path, kept)
    assert done.returncode == 2
    assert "has no stack" in done.stderr
    assert "pulumi up -s dev" in done.stderr


def test_a_port_that_is_in_use_is_told(people: dict[str, Person]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = people["trainer"].run("connect", STACK, "--port", f"s3={port}", "--", "true")
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert people["trainer"].left() == []


def test_data_goes_through_and_a_command_reaches_nothing_that_it_does_not_need(
    stack: Stack, people: dict[str, Person]
) -> None:
    stack.forwarded.unlink(missing_ok=True)
    promoter = people["promoter"]
    sample = stack.project / "models" / "dry_wet" / "sample"
    done = promoter.run("connect", STACK, "--", "modelport", "data", "push", _dataset(stack), str(sample))
    assert done.returncode == 0, done.stderr
    assert "examples to train and select with" in done.stdout
    forwarded = {line.split()[0] for line in stack.forwarded.read_text().splitlines()}
    assert forwarded == {"object-store-0"}
    again = promoter.run("connect", STACK, "--", "modelport", "data", "push", _dataset(stack), "/nowhere")
    assert again.returncode == 2, "the command's own exit code"


def test_another_terminal_uses_what_is_connected_until_that_ends(stack: Stack, people: dict[str, Person]) -> None:
    trainer = people["trainer"]
    alone = trainer.run("--stack", STACK, "data", "list", _dataset(stack))
    assert alone.returncode == 5
    assert "run `modelport connect dev`" in alone.stderr

    connected = trainer.start("connect", STACK)
    try:
        said = until(connected, "Ctrl-C")
        assert "role trainer   yes" in said
        assert "role promoter  no" in said
        assert "cannot get resource" in said
        listed = trainer.run("--stack", STACK, "data", "list", _dataset(stack))
        assert listed.returncode == 0, listed.stderr
        trainer.environment["MODELPORT_STACK"] = STACK
        assert trainer.run("data", "list", _dataset(stack)).returncode == 0
        push = trainer.run("data", "push", _dataset(stack), ".")
        assert push.returncode == 6, "he is no promoter"
        twice = trainer.run("connect", STACK)
        assert twice.returncode == 4
        assert "connected already" in twice.stderr

        # The pod goes, another comes under another name: the same port leads there.
        stack.pods_of("object-store", "modelport-registry", "object-store-1")
        after = trainer.run("data", "list", _dataset(stack))
        assert after.returncode == 0, after.stderr
        assert stack.forwarded.read_text().splitlines()[-1].startswith("object-store-1 ")

        connected.send_signal(signal.SIGINT)
        assert connected.wait(timeout=120) == 0
        assert trainer.left() == []
        assert trainer.run("data", "list", _dataset(stack)).returncode == 5
    finally:
        end(connected)
        stack.pods_of("object-store", "modelport-registry", "object-store-0")


def test_what_a_killed_session_leaves_serves_nobody_and_goes(stack: Stack, people: dict[str, Person]) -> None:
    trainer = people["trainer"]
    stack.forwarded.unlink(missing_ok=True)
    connected = trainer.start("connect", STACK)
    try:
        until(connected, "Ctrl-C")
        assert trainer.run("--stack", STACK, "data", "list", _dataset(stack)).returncode == 0
        (forward,) = [int(line.split()[1]) for line in stack.forwarded.read_text().splitlines()]
        connected.kill()
        connected.wait(timeout=10)
        stack.control_plane.wait_for("kwok", "kubectl ends with us", lambda: not _runs(forward), 10)
    finally:
        end(connected)
    assert trainer.left()
    assert trainer.run("--stack", STACK, "data", "list", _dataset(stack)).returncode == 5
    assert trainer.run("connect", STACK, "--", "true").returncode == 0
    assert trainer.left() == []


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
"""As a shell that somebody types into."""


@pytest.mark.parametrize(
    ("ending", "command", "says"),
    [
        (signal.SIGTERM, (), "Ctrl-C"),
        (signal.SIGHUP, (), "Ctrl-C"),
        (signal.SIGTERM, ("--role", "trainer", "--", sys.executable, "-c", DEAF), "deaf"),
    ],
    ids=["SIGTERM", "SIGHUP", "a deaf command"],
)
def test_whoever_ends_it_takes_the_credentials_away(
    people: dict[str, Person], ending: signal.Signals, command: tuple[str, ...], says: str
) -> None:
    trainer = people["trainer"]
    connected = trainer.start("connect", STACK, *command)
    try:
        until(connected, says)
        assert trainer.left()
        connected.send_signal(ending)
        assert connected.wait(timeout=120) == 128 + ending
    finally:
        end(connected)
    assert trainer.left() == []


def test_kubectl_that_cannot_forward_is_told(stack: Stack, people: dict[str, Person]) -> None:
    stack.plan(refuse="pods is forbidden")
    done = people["trainer"].run("connect", STACK, "--", "modelport", "data", "list", _dataset(stack), seconds=300)
    assert done.returncode == 5
    assert "kubectl said: error: pods is forbidden" in done.stderr

    (people["trainer"].folder / "bin" / "kubectl").unlink()
    people["trainer"].environment["PATH"] = str(people["trainer"].folder / "bin")
    done = people["trainer"].run("connect", STACK, "--", "modelport", "data", "list", _dataset(stack))
    assert done.returncode == 5
    assert "there is no kubectl on PATH" in done.stderr


CAN = {
    # What, and who of all may do it.
    ("get", "configmaps/modelport-directory", "registry"): set(EVERYBODY) - {"nobody"},
    ("get", "secrets/connection-reader-1-1", "registry"): {"reader", "trainer", "promoter"},
    ("get", "secrets/connection-trainer-1-1", "training"): {"trainer"},
    ("get", "secrets/connection-promoter-1-1", "registry"): {"promoter"},
    ("get", "secrets/connection-gateway-1", "serving"): set(),
    ("get", "secrets/gateway-key-hospital", "serving"): {"hospital", "hospital-and-road"},
    ("get", "secrets/gateway-key-road", "serving"): {"hospital-and-road"},
    ("list", "secrets", "registry"): set(),
    ("list", "secrets", "training"): set(),
    ("create", "pods/mlflow-0 --subresource=portforward", "registry"): {"reader", "trainer", "promoter"},
    ("create", "pods/gateway-0 --subresource=portforward", "serving"): {"hospital", "hospital-and-road"},
    ("create", "pods/polyp-seg-0 --subresource=portforward", "serving"): set(),
    ("create", "pods/mlflow-0 --subresource=exec", "registry"): set(),
    ("create", "rayjobs.ray.io", "training"): {"trainer"},
    ("delete", "rayjobs.ray.io", "training"): {"trainer"},
    ("update", "rayjobs.ray.io", "training"): set(),
    ("create", "configmaps", "training"): {"trainer"},
    ("update", "configmaps", "training"): set(),
    ("delete", "configmaps", "training"): set(),
    ("create", "configmaps", "registry"): set(),
    ("get", "serviceaccounts", "training"): {"trainer"},
    ("update", "serviceaccounts", "training"): set(),
    ("create", "pods", "training"): set(),
    ("get", "pods --subresource=log", "training"): {"trainer"},
    ("get", "pods --subresource=log", "registry"): set(),
}


@pytest.mark.parametrize(("verb", "what", "namespace"), CAN)
def test_who_may_what_in_the_cluster(stack: Stack, verb: str, what: str, namespace: str) -> None:
    resource, _, subresource = what.partition(" --subresource=")
    kind, _, name = resource.partition("/")
    plural, _, api = kind.partition(".")
    review = {
        "namespace": f"modelport-{namespace}",
        "verb": verb,
        "group": api,
        "resource": plural,
        "subresource": subresource,
        "name": name,
    }

    def may(person: str) -> bool:
        spec = {"user": "x", "groups": [f"system:serviceaccounts:people-{person}"], "resourceAttributes": review}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return stack.control_plane.request("POST", path, body)["status"]["allowed"]

    assert {person for person in EVERYBODY if may(person)} == CAN[verb, what, namespace]


def _dataset(stack: Stack) -> str:
    return find_model("dry_wet", stack.project).spec.data.name


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
