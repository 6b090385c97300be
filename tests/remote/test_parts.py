"""What is read from a cluster, and what commands are taken for."""

import pytest

from modelport.connection import Cluster, Connection, S3Key
from modelport.errors import ModelportError
from modelport.remote import directory
from modelport.remote.directory import SecretPlace, ServicePlace, parse, service_of
from modelport.remote.stacks import Named, read_outputs
from modelport.remote.training import failure
from modelport.remote.uses import (
    NEEDS,
    Credentials,
    Person,
    Place,
    Service,
    Use,
    connection_for,
    own_command,
    use_of,
)

DATA = {
    "s3_endpoint": "http://object-store.modelport-registry.svc:9000",
    "tracking_uri": "http://mlflow.modelport-registry.svc:5000",
    "gateway_url": "http://gateway.modelport-serving.svc:8080",
}
LABELS = {"modelport.dev/stack": "dev"}


@pytest.mark.parametrize(
    ("command", "use"),
    [
        ("modelport versions polyp_seg", Use.LOOK),
        ("/somewhere/bin/modelport status polyp_seg --json", Use.LOOK),
        ("python3.11 -m modelport predict polyp_seg a.png", Use.ASK),
        ("modelport --stack dev promote polyp_seg", Use.DECIDE),
        ("modelport data push road folder", Use.PUSH),
        ("modelport data list road", Use.LIST),
        ("modelport loadtest polyp_seg", Use.LOAD),
        ("modelport train versions", Use.TRAIN),
        ("modelport export polyp_seg --compare", Use.EXPORT),
        ("modelport new versions", None),
        ("modelport local up", None),
        ("modelport", None),
    ],
)
def test_a_command_is_known_by_what_it_needs(command: str, use: Use | None) -> None:
    arguments = own_command(command.split())
    assert arguments is not None
    assert use_of(arguments) is use


@pytest.mark.parametrize("command", ["", "bash", "python my.py", "python -m pytest modelport"])
def test_other_programs_are_none_of_ours(command: str) -> None:
    assert own_command(command.split()) is None


def test_only_what_writes_gets_what_writes() -> None:
    looking = {use for use, need in NEEDS.items() if need.people[:1] == (Person.READER,)}
    assert looking == {Use.LOOK, Use.LOAD}
    assert {use for use, need in NEEDS.items() if need.gateway} == {Use.ASK, Use.LOAD}
    assert NEEDS[Use.ASK].services == {Service.GATEWAY}
    assert NEEDS[Use.PUSH].services == {Service.S3}


def test_an_export_reads_what_was_promoted_where_its_user_may() -> None:
    place = Place("r", "b", dict.fromkeys(Service, "http://x"), Cluster(context="c", namespace="n"))
    held = {
        person: Credentials(S3Key(access_key=person, secret_key="s"), None, None)
        for person in (Person.READER, Person.TRAINER)
    }

    def keys(*people: Person) -> dict[str, str]:
        found = connection_for(NEEDS[Use.EXPORT], place, {person: held[person] for person in people}, None)
        return {} if found is None else {role: key.access_key for role, key in found.s3_keys.items()}

    assert keys(Person.READER, Person.TRAINER) == {"trainer": "trainer", "server": "reader"}
    assert keys(Person.TRAINER) == {"trainer": "trainer"}
    assert keys(Person.READER) == {}


def test_a_directory_says_where_things_are() -> None:
    found = parse({**DATA, "trainer": "training/connection-1", "caller.road-service": "serving/key-2"}, LABELS)
    assert found.stack == "dev"
    assert found.people == {Person.TRAINER: SecretPlace("training", "connection-1")}
    assert found.training == "training"
    assert found.callers == {"road-service": SecretPlace("serving", "key-2")}


@pytest.mark.parametrize(
    ("data", "labels", "said"),
    [
        ({**DATA, "gateway_url": ""}, LABELS, "has no key gateway_url"),
        (DATA, {}, "has no label modelport.dev/stack"),
        ({**DATA, "trainer": "nowhere"}, LABELS, "'nowhere', which is no NAMESPACE/NAME"),
    ],
)
def test_what_is_no_directory_is_told(data: dict[str, str], labels: dict[str, str], said: str) -> None:
    with pytest.raises(ModelportError, match=said):
        parse(data, labels)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://mlflow.modelport-registry.svc:5000", ServicePlace("modelport-registry", "mlflow", 5000)),
        ("http://gateway.serving.svc.cluster.local", ServicePlace("serving", "gateway", 80)),
        ("https://storage.googleapis.com", None),
        ("https://models.example.org", None),
    ],
)
def test_what_is_outside_of_the_cluster_is_not_forwarded(url: str, place: ServicePlace | None) -> None:
    assert service_of(url) == place


@pytest.mark.parametrize(
    "found", [None, [], {}, {"context": "name"}, {"context": {"name": ""}}, {"context": {"name": 3}}]
)
def test_outputs_that_name_no_cluster_say_nothing(found: object) -> None:
    assert read_outputs(found) is None


def test_outputs_name_a_cluster() -> None:
    assert read_outputs({"context": {"name": "c"}, "cluster": "log in"}) == Named("c", None, "log in")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("AppFailed: Job entrypoint command failed with exit code 4, last available logs", 4),
        ("AppFailed: Job entrypoint command failed with exit code 137", 1),
        ("DeadlineExceeded", 1),
        ("", 1),
    ],
)
def test_a_training_fails_as_its_command_did(reason: str, code: int) -> None:
    assert failure("x", reason).exit_code == code


def test_the_program_and_the_command_line_name_the_same_things() -> None:
    from components import connection, gateway, ray_job
    from infra import connections, network, settings
    from modelport.remote import session, training

    assert (directory.NAMESPACE, directory.NAME) == (network.Namespace.REGISTRY, connections.DIRECTORY)
    assert set(Person) == set(settings.ROLES)
    assert (session.FILE, session.KEY) == (connection.FILE, gateway.KEY)
    assert (training.TEMPLATE_FILE, training.BUNDLE_FILE) == (ray_job.TEMPLATE_FILE, ray_job.BUNDLE_FILE)
    assert Connection(s3_endpoint="").cluster is None, "what pods are given trains where they are"
