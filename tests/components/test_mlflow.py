"""MLflow's server: what is registered, and its setup run with MLflow's own stores."""

import configparser
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from components import mlflow
from components.mlflow import MlflowServer, allowed_hosts, auth_config, check, database_files, users_file
from tests.components.recording import Recorded, record
from tests.components.secrecy import readable

DATABASE = {
    "host": "postgres.registry.svc",
    "port": 5432,
    "name": "mlflow",
    "user": "mlflow",
    "password": "generated-for-postgres",
}
ARTIFACTS = {
    "endpoint": "http://store.registry.svc:9000",
    "region": "us-east-1",
    "bucket": "mlflow",
    "access_key": "mlflow",
    "secret_key": "generated-for-artifacts",
}


def arguments(**more):
    return {
        "namespace": "registry",
        "image": "registry.example/platform:1",
        "database": DATABASE,
        "artifacts": ARTIFACTS,
        "users": ["trainer", "promoter"],
        **more,
    }


def build(**more) -> list[Recorded]:
    return record(lambda: MlflowServer("mlflow", arguments(**more)))


def only(found: list[Recorded], kind: str, name: str | None = None) -> Recorded:
    (one,) = [each for each in found if each.kind == kind and name in (None, each.name)]
    return one


def job_name(**more) -> str:
    return only(build(**more), "Job").inputs["metadata"]["name"]


class TestResources:
    """What is registered."""

    @pytest.mark.parametrize(
        ("changes", "again"),
        [
            ({}, False),
            ({"password_generation": 2}, True),
            ({"image": "registry.example/platform:2"}, True),
            ({"users": ["trainer"]}, True),
            ({"grants": {"promoter": {"experiment": "EDIT"}}}, True),
            ({"replicas": 3}, False),
            ({"database": {**DATABASE, "password": "generated-anew"}}, False),
        ],
    )
    def test_the_setup_runs_again_when_there_is_something_to_do(self, changes, again):
        assert (job_name(**changes) != job_name()) is again

    @pytest.mark.parametrize(
        "changes",
        [
            {"database": {**DATABASE, "password": "generated-anew"}},
            {"artifacts": {**ARTIFACTS, "secret_key": "generated-anew"}},
        ],
    )
    def test_another_credential_restarts_the_server(self, changes):
        marks = [
            only(build(**more), "Deployment").inputs["spec"]["template"]["metadata"]["annotations"]
            for more in ({}, changes, {})
        ]
        assert marks[0] != marks[1]
        assert marks[0] == marks[2]

    def test_no_secret_can_be_read(self):
        for each in build():
            if each.kind != "MlflowServer":  # its arguments are this test's own, and plain
                assert "generated-for" not in readable(each.inputs), each.name
            if each.kind not in ("MlflowServer", "Secret"):
                assert "generated-for" not in json.dumps(each.inputs), each.name

    def test_the_servers_pods_hold_no_users_password(self):
        found = build()
        pod = only(found, "Deployment").inputs["spec"]["template"]["spec"]
        used = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        used |= {
            variable["valueFrom"]["secretKeyRef"]["name"]
            for variable in pod["containers"][0]["env"]
            if "valueFrom" in variable
        }
        assert used == {"mlflow"}
        held = json.dumps(only(found, "Secret", "mlflow").inputs)
        assert "generated-for-mlflow-session" in held
        for user in ("admin", "trainer", "promoter"):
            assert f"generated-for-mlflow-{user}" not in held

    def test_the_server_wants_a_login_and_answers_to_its_own_names(self):
        (server,) = only(build(), "Deployment").inputs["spec"]["template"]["spec"]["containers"]
        assert "--app-name=basic-auth" in server["args"]
        hosts = next(each for each in server["args"] if each.startswith("--allowed-hosts="))
        assert hosts == f"--allowed-hosts={allowed_hosts('mlflow', 'registry')}"

    def test_outputs_say_how_to_log_in(self):
        seen = {}

        def make():
            made = MlflowServer("mlflow", arguments())
            for key in ("url", "usernames", "passwords"):
                getattr(made, key).apply(lambda value, key=key: seen.update({key: value}))

        record(make)
        assert seen["url"] == "http://mlflow.registry.svc:5000"
        assert seen["usernames"] == ["admin", "trainer", "promoter"]
        assert seen["passwords"]["trainer"] == "generated-for-mlflow-trainer"
        assert len(set(seen["passwords"].values())) == 3

    def test_several_replicas_never_all_go_at_once(self):
        found = build(replicas=2.0)
        assert only(found, "Deployment").inputs["spec"]["replicas"] == 2
        assert only(found, "PodDisruptionBudget").inputs["spec"]["maxUnavailable"] == 1
        assert not [each for each in build() if each.kind == "PodDisruptionBudget"]


@pytest.mark.parametrize(
    "host", ["mlflow", "mlflow.registry", "mlflow.registry.svc", "mlflow.registry.svc.cluster.local"]
)
def test_each_name_of_the_service_is_allowed_with_and_without_its_port(host):
    hosts = allowed_hosts("mlflow", "registry").split(",")
    assert host in hosts
    assert f"{host}:5000" in hosts
    assert not {"*", "*:5000"} & set(hosts)


def test_addresses_survive_odd_passwords():
    files = database_files({**DATABASE, "password": "p@ss/%w:rd", "port": 5432.0})
    assert files["backend-uri"] == "postgresql+psycopg://mlflow:p%40ss%2F%25w%3Ard@postgres.registry.svc:5432/mlflow"
    config = configparser.ConfigParser()
    config.read_string(files["auth.ini"])
    assert config["mlflow"]["database_uri"] == f"{files['backend-uri']}?options=-csearch_path=mlflow_auth"
    assert "admin_password" not in config["mlflow"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"users": ["Trainer"]}, "small letters"),
        ({"users": ["admin"]}, "there anyway"),
        ({"users": ["trainer", "trainer"]}, "named twice"),
        ({"grants": {"stranger": {"experiment": "EDIT"}}}, "stranger is not among users"),
        ({"grants": {"trainer": {"experiment": "OWN"}}}, "OWN is none of"),
    ],
)
def test_names_and_rights_that_mlflow_would_refuse_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(arguments(**changes))


class TestSetup:
    """The setup, run as the Job runs it, on MLflow's own stores (SQLite here)."""

    def run(self, folder: Path, users: str) -> str:
        (folder / "auth.ini").write_text(auth_config(f"sqlite:///{folder / 'auth.db'}"))
        (folder / "users.json").write_text(users)
        done = subprocess.run(
            [sys.executable, "-P", Path(mlflow.__file__).with_name("scripts") / "mlflow_setup.py"],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
                "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "AUTH_SCHEMA": mlflow.AUTH_SCHEMA,
                "USERS_FILE": str(folder / "users.json"),
                "DEADLINE_SECONDS": "10",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def test_users_passwords_and_rights_are_brought_about_and_changed(self, tmp_path):
        from werkzeug.security import check_password_hash

        def holds(user: str, password: str) -> bool:
            with sqlite3.connect(tmp_path / "auth.db") as database:
                query = "select password_hash, is_admin from users where username = ?"
                hashed, admin = database.execute(query, (user,)).fetchone()
            assert bool(admin) is (user == "admin")
            return check_password_hash(hashed, password)

        def rows(statement: str) -> list[tuple[str, ...]]:
            with sqlite3.connect(tmp_path / "auth.db") as database:
                return sorted(database.execute(statement).fetchall())

        first = {"admin": "admin-one-secret", "trainer": "trainer-one-secret", "leaver": "leaver-one-secret"}
        grants = {"trainer": {"experiment": "EDIT", "registered_model": "MANAGE"}}
        printed = self.run(tmp_path, users_file(first, grants))
        assert all(holds(user, password) for user, password in first.items())
        rights = "select resource_type, resource_pattern, permission from role_permissions"
        assert rows(rights) == [("experiment", "*", "EDIT"), ("registered_model", "*", "MANAGE")]
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            assert database.execute("select count(*) from alembic_version").fetchone() == (1,)

        # Nobody tells the old password of the administrator.
        second = {"admin": "admin-two-secret", "trainer": "trainer-one-secret"}
        printed += self.run(tmp_path, users_file(second, {"trainer": {"experiment": "EDIT"}}))
        assert holds("admin", "admin-two-secret")
        assert not holds("admin", "admin-one-secret")
        assert holds("trainer", "trainer-one-secret")
        assert rows("select username from users") == [("admin",), ("trainer",)]
        assert rows(rights) == [("experiment", "*", "EDIT")]
        assert not [password for password in (*first.values(), *second.values()) if password in printed]
