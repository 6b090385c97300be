"""PostgreSQL: what is registered, and its scripts run with real servers."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components import postgres
from components.postgres import Postgres, check
from tests.components import weed
from tests.components.recording import Recorded, record
from tests.components.secrecy import readable

SCRIPTS = Path(postgres.__file__).with_name("scripts")
BACKUP = {
    "schedule": "17 2 * * *",
    "endpoint": "http://store.registry.svc:9000",
    "region": "us-east-1",
    "bucket": "backups",
    "prefix": "mlflow/",
    "access_key": "backup",
    "secret_key": "generated-for-backup",
    "image": "registry.example/platform:1",
}
CLOUD_SQL = {"project": "acme", "region": "us-central1", "network": "projects/acme/global/networks/prod"}


def arguments(**more):
    return {"namespace": "registry", "engine": "in-cluster", "database": "mlflow", "user": "mlflow", **more}


def build(**more) -> list[Recorded]:
    return record(lambda: Postgres("postgres", arguments(**more)))


def only(found: list[Recorded], kind: str, name: str | None = None) -> Recorded:
    (one,) = [each for each in found if each.kind == kind and name in (None, each.name)]
    return one


class TestInCluster:
    """What is registered."""

    def test_another_password_is_another_job_and_no_restart(self):
        before, after = ({(e.kind, e.name): e for e in build(password_generation=g)} for g in (1, 2.0))
        changed = {key for key in after if after[key].inputs != before[key].inputs}
        assert changed == {("Postgres", "postgres"), ("RandomPassword", "postgres-app"), ("Job", "postgres-setup")}
        names = {found["Job", "postgres-setup"].inputs["metadata"]["name"] for found in (before, after)}
        assert len(names) == 2

    def test_another_password_of_the_administrator_restarts_the_server_and_repeats_nothing(self):
        before, after = ({(e.kind, e.name): e for e in build(admin_generation=g)} for g in (1, 2))
        changed = {key for key in after if after[key].inputs != before[key].inputs}
        assert changed == {
            ("Postgres", "postgres"),
            ("RandomPassword", "postgres-admin"),
            ("StatefulSet", "postgres"),
        }

    def test_no_secret_can_be_read(self):
        for each in build(backup=BACKUP):
            if each.kind != "Postgres":  # its arguments are this test's own, and plain
                assert "generated-for" not in readable(each.inputs), each.name
            if each.kind not in ("Postgres", "Secret"):
                assert "generated-for" not in json.dumps(each.inputs), each.name

    def test_outputs_say_how_to_connect(self):
        seen = {}

        def make():
            made = Postgres("postgres", arguments())
            for key in ("host", "port", "database", "user", "password"):
                getattr(made, key).apply(lambda value, key=key: seen.update({key: value}))

        record(make)
        assert seen == {
            "host": "postgres.registry.svc",
            "port": 5432,
            "database": "mlflow",
            "user": "mlflow",
            "password": "generated-for-postgres-app",
        }

    def test_the_volume_is_a_resource_of_its_own_so_that_it_can_grow(self):
        found = build(size="50Gi", storage_class="fast")
        spec = only(found, "PersistentVolumeClaim").inputs["spec"]
        assert spec["resources"]["requests"]["storage"] == "50Gi"
        assert spec["storageClassName"] == "fast"
        server = only(found, "StatefulSet").inputs["spec"]
        assert "volumeClaimTemplates" not in server
        volumes = {volume["name"]: volume for volume in server["template"]["spec"]["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "postgres-data"

    def test_the_server_asks_everybody_for_a_password(self):
        found = build()
        hba = only(found, "ConfigMap", "postgres-config").inputs["data"]["pg_hba.conf"]
        methods = [line.split()[-1] for line in hba.splitlines() if not line.startswith("#")]
        assert set(methods) == {"scram-sha-256"}
        (server,) = only(found, "StatefulSet").inputs["spec"]["template"]["spec"]["containers"]
        assert "hba_file=/etc/postgres/pg_hba.conf" in server["args"]

    def test_the_backup_dumps_as_the_owner_and_stores_with_its_own_key(self):
        found = build(backup=BACKUP)
        pod = only(found, "CronJob").inputs["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (dump,), (store,) = pod["initContainers"], pod["containers"]
        assert {"name": "PGUSER", "value": "mlflow"} in dump["env"]
        secrets = {each["valueFrom"]["secretKeyRef"]["name"] for each in store["env"] if "valueFrom" in each}
        assert secrets == {"postgres-backup"}
        assert not [each for each in build() if each.kind == "CronJob"]


class TestCloudSql:
    """Checked against what is registered; it was never run."""

    def test_it_has_a_private_address_only_and_can_be_recovered(self):
        found = build(engine="cloud-sql", cloud_sql={**CLOUD_SQL, "high_availability": True})
        instance = only(found, "DatabaseInstance").inputs
        assert instance["deletionProtection"] is True
        settings = instance["settings"]
        assert settings["ipConfiguration"] == {
            "ipv4Enabled": False,
            "privateNetwork": CLOUD_SQL["network"],
            "sslMode": "ENCRYPTED_ONLY",
        }
        assert settings["availabilityType"] == "REGIONAL"
        assert settings["backupConfiguration"]["pointInTimeRecoveryEnabled"] is True
        assert not [each for each in found if each.type.startswith("kubernetes:")]

    def test_its_disk_has_a_size_only_where_one_is_asked_for(self):
        sizes = [postgres.cloud_sql_settings({**CLOUD_SQL, **more}, {}) for more in ({}, {"disk_gigabytes": 20.0})]
        assert [settings.get("disk_size") for settings in sizes] == [None, 20]
        assert all(settings["disk_autoresize"] for settings in sizes)

    def test_another_password_reaches_the_server(self):
        more = {"engine": "cloud-sql", "cloud_sql": CLOUD_SQL}
        user = only(build(**more), "User").inputs
        assert user["name"] == "mlflow"
        assert "generated-for-postgres-app" in json.dumps(user["password"])
        keepers = [only(build(**more, password_generation=g), "RandomPassword").inputs["keepers"] for g in (1, 2)]
        assert keepers[0] != keepers[1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"user": "Robert'); --"}, "user: .* must be small letters"),
        ({"user": "postgres"}, "PostgreSQL's own"),
        ({"database": "template1"}, "PostgreSQL's own"),
        ({"engine": "cloud-sql"}, "cloud_sql: must be given"),
        ({"cloud_sql": CLOUD_SQL}, "cloud_sql: must be given"),
        ({"engine": "cloud-sql", "cloud_sql": CLOUD_SQL, "backup": BACKUP}, "backup: is for the engine in-cluster"),
        ({"backup": {**BACKUP, "schedule": "daily"}}, "five fields"),
        ({"backup": {**BACKUP, "prefix": "mlflow"}}, "end with a slash"),
    ],
)
def test_what_an_engine_does_not_do_is_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(arguments(**changes))


class Server:
    """A folder with PostgreSQL's data, and what the pod's containers would do in it, as a user without rights."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.password = folder / "password"
        for name in ("postgres_start.sh", "postgres_setup.sh", "postgres_setup.sql", "postgres_wait.sh"):
            shutil.copy(SCRIPTS / name, folder / name)
        (folder / "setup.sql").symlink_to(folder / "postgres_setup.sql")
        (folder / "pg_hba.conf").write_text(postgres._HBA)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def command(self, *words: object) -> list[str]:
        drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        return [*drop, *map(str, words)]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PGDATA": str(self.folder / "volume" / "pgdata"),
            "ADMIN_PASSWORD_FILE": str(self.password),
        }

    def initialise(self, password: str) -> subprocess.CompletedProcess[str]:
        """The init container."""
        self.password.write_text(password)
        self.password.chmod(0o444)
        return subprocess.run(
            self.command("/bin/sh", self.folder / "postgres_start.sh"),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    @contextmanager
    def running(self) -> Generator[None]:
        """The server, while the block runs."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder / "volume",
            "hba_file": self.folder / "pg_hba.conf",
        }
        words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                self.command(self.programs / "postgres", "-D", self.environment["PGDATA"], *words),
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)

    def setup(self, admin: str, password: str, **more) -> subprocess.CompletedProcess[str]:
        """The Job."""
        return subprocess.run(
            ["/bin/sh", self.folder / "postgres_setup.sh"],
            env={
                "PATH": f"{self.programs}:{os.environ['PATH']}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.port),
                "PGUSER": "postgres",
                "PGPASSWORD": admin,
                "APP_DATABASE": "mlflow",
                "APP_USER": "mlflow",
                "APP_PASSWORD": password,
                "SETUP_DIR": str(self.folder),
                "DEADLINE_SECONDS": "30",
                **more,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    def ask(self, user: str, password: str, database: str, statement: str) -> str:
        """The answer to a statement, or the error."""
        done = subprocess.run(
            [
                *(self.programs / "psql", "-X", "-tA", "-h", "127.0.0.1", "-p", str(self.port)),
                *("-U", user, "-d", database, "-c", statement),
            ],
            env={"PGPASSWORD": password, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return (done.stdout + done.stderr).strip()


@pytest.fixture
def server() -> Generator[Server]:
    found = shutil.which("postgres")
    programs = Path(found).resolve().parent if found else None
    if programs is None or not all((programs / name).exists() for name in ("initdb", "psql", "pg_isready")):
        pytest.skip("PostgreSQL's server is not installed")
    # Not pytest's folder: that one is closed to the user that PostgreSQL wants to be.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "volume").mkdir()
        if os.geteuid() == 0:
            os.chown(folder / "volume", 65534, 65534)
        yield Server(folder, programs)


def test_role_database_and_both_passwords_are_brought_about_and_changed(server):
    assert "made a new database" in server.initialise("admin-one").stdout
    with server.running():
        for password in ("app-one", "app-two"):  # the second time nothing is new but the password
            done = server.setup("admin-one", password)
            assert done.returncode == 0, done.stderr
        assert server.ask("mlflow", "app-two", "mlflow", "create table t (i int); select 'mine'").endswith("mine")
        assert "authentication failed" in server.ask("mlflow", "app-one", "mlflow", "select 1")
        # The role owns its database and sees no other.
        assert "permission denied for database" in server.ask("mlflow", "app-two", "postgres", "select 1")
        assert "permission denied" in server.ask("mlflow", "app-two", "mlflow", "create role other")
        assert server.ask("postgres", "admin-one", "postgres", "show data_checksums") == "on"
        verifier = "select rolpassword from pg_authid where rolname = 'mlflow'"
        assert server.ask("postgres", "admin-one", "postgres", verifier).startswith("SCRAM-SHA-256$")

    again = server.initialise("admin-two")
    assert again.returncode == 0, again.stderr
    with server.running():
        assert server.setup("admin-two", "app-two").returncode == 0
        assert server.setup("admin-one", "app-two").returncode != 0
        assert server.ask("mlflow", "app-two", "mlflow", "select count(*) from t") == "0"
        # A statement that fails is written to the log; the one with the password in it must not be.
        assert server.setup("admin-two", "app-three", APP_USER="pg_monitor").returncode != 0
    assert "app-three" not in (server.folder / "log").read_text()


def test_a_first_start_that_was_cut_off_is_begun_anew(server):
    left = server.folder / "volume" / "pgdata.new"
    left.mkdir()
    (left / "half").write_text("made")
    if os.geteuid() == 0:
        os.chown(left, 65534, 65534)
        os.chown(left / "half", 65534, 65534)
    done = server.initialise("admin-one")
    assert done.returncode == 0, done.stderr
    assert (server.folder / "volume" / "pgdata" / "PG_VERSION").exists()


def test_a_dump_waits_for_a_server_that_cannot_be_reached_yet(server):
    server.initialise("admin-one")
    with server.running():
        assert server.setup("admin-one", "app-one").returncode == 0
    dump = server.folder / "database.dump"
    environment = {
        "PATH": f"{server.programs}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGUSER": "mlflow",
        "PGPASSWORD": "app-one",
        "PGDATABASE": "mlflow",
        "DUMP": str(dump),
    }
    command = ["/bin/sh", SCRIPTS / "postgres_dump.sh"]
    gone = subprocess.run(command, env={**environment, "DEADLINE_SECONDS": "0"}, capture_output=True, text=True)
    assert gone.returncode == 1
    assert "did not answer within 0 seconds" in gone.stderr
    with subprocess.Popen(command, env=environment) as dumping, server.running():
        assert dumping.wait(60) == 0
    assert dump.read_bytes().startswith(b"PGDMP")


def test_a_server_that_does_not_answer_is_said(server):
    done = server.setup("admin", "app", DEADLINE_SECONDS="0")
    assert done.returncode == 1
    assert f"PostgreSQL at 127.0.0.1:{server.port} did not answer within 0 seconds" in done.stderr


def test_dumps_are_stored_whole_and_old_ones_go_but_for_the_newest(tmp_path):
    identities = json.dumps(
        {
            "identities": [
                {
                    "name": "backup",
                    "credentials": [{"accessKey": "backup", "secretKey": "backup-secret"}],
                    "actions": ["Admin"],
                }
            ]
        }
    )
    dump = tmp_path / "database.dump"

    def run(content: bytes, keep_days: int, endpoint: str) -> subprocess.CompletedProcess[str]:
        dump.write_bytes(content)
        return subprocess.run(
            [sys.executable, "-P", SCRIPTS / "postgres_backup.py"],
            env={
                "DUMP": str(dump),
                "S3_ENDPOINT": endpoint,
                "AWS_ACCESS_KEY_ID": "backup",
                "AWS_SECRET_ACCESS_KEY": "backup-secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "BUCKET": "backups",
                "PREFIX": "mlflow/",
                "KEEP_DAYS": str(keep_days),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    with weed.serving(tmp_path / "weed", identities) as endpoint:
        client = weed.client(endpoint, "backup", "backup-secret")
        end = time.monotonic() + 30
        while True:  # right after a start it knows buckets before it knows where to put an object
            try:
                client.create_bucket(Bucket="backups")
                break
            except client.exceptions.ClientError:
                assert time.monotonic() < end
                time.sleep(0.5)
        for key in ("2020-01-01T000000Z.dump", "2020-01-02T000000Z.dump", "notes.txt"):
            client.put_object(Bucket="backups", Key=f"mlflow/{key}", Body=b"old")

        def stored() -> list[str]:
            listing = client.list_objects_v2(Bucket="backups", Prefix="mlflow/").get("Contents", [])
            return [found["Key"].removeprefix("mlflow/") for found in listing]

        empty = run(b"", 14, endpoint)
        assert empty.returncode == 1
        assert "is empty" in empty.stderr
        assert len(stored()) == 3  # a failed backup forgets nothing

        done = run(b"a dump", 14, endpoint)
        assert done.returncode == 0, done.stderr
        newest, notes = stored()
        assert notes == "notes.txt"  # what is not ours stays
        assert client.get_object(Bucket="backups", Key=f"mlflow/{newest}")["Body"].read() == b"a dump"
