"""Object store: who can do what with which key, and that a new key is one for the server too."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from components import minio, object_args, object_rights, seaweedfs
from components.object_store import Consumer, ObjectStore
from tests.components import google, weed
from tests.components.recording import Recorded, record
from tests.components.secrecy import readable
from tools import program

SCRIPTS = Path(minio.__file__).with_name("scripts")
TRAINER = Consumer(
    name="trainer",
    grants=[{"bucket": "modelport", "read": ["datasets/"], "write": ["staging/", "checkpoints/"]}],
)
SERVER = Consumer(
    name="server",
    grants=[{"bucket": "modelport", "read": ["releases/", "promotions/"], "write": ["replicas/", "records/"]}],
)
MLFLOW = Consumer(name="mlflow", grants=[{"bucket": "mlflow", "read": [], "write": [""]}])
CONSUMERS = [TRAINER, SERVER, MLFLOW]
BUCKETS = [
    {
        "name": "modelport",
        "versioning": True,
        "unversioned": ["checkpoints/", "replicas/"],
        "expire": [{"prefix": "staging/", "days": 30}],
    },
    {"name": "mlflow"},
]
WEED = {"engine": "seaweedfs", "tool_image": "registry.example/platform:1"}
GCS = {"engine": "gcs", "gcs": {"project": "acme", "location": "us-central1"}}


def arguments(**more):
    return {
        "namespace": "registry",
        "engine": "minio",
        "size": "10Gi",
        "buckets": BUCKETS,
        "consumers": CONSUMERS,
        **more,
    }


def build(**more) -> list[Recorded]:
    run = google.record_on_google if more.get("engine") == "gcs" else record
    return run(lambda: ObjectStore("store", arguments(**more)))


def only(found: list[Recorded], kind: str, name: str | None = None) -> Recorded:
    (one,) = [each for each in found if each.kind == kind and name in (None, each.name)]
    return one


def outputs(**more) -> dict:
    seen = {}

    def make():
        store = ObjectStore("store", arguments(**more))
        for key in ("endpoint", "region", "access_keys", "secret_keys", "bucket_names", "ready"):
            getattr(store, key).apply(lambda value, key=key: seen.update({key: value}))

    (google.record_on_google if more.get("engine") == "gcs" else record)(make)
    return seen


class TestRights:
    """The three identities' rights, in each engine's language."""

    def test_the_trainers_policy_is_this_and_nothing_else(self):
        assert json.loads(object_rights.minio_policy(TRAINER)) == {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["s3:ListBucket"],
                    "Resource": ["arn:aws:s3:::modelport"],
                    "Condition": {"StringLike": {"s3:prefix": ["checkpoints/*", "datasets/*", "staging/*"]}},
                },
                {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::modelport/datasets/*"]},
                {
                    "Effect": "Allow",
                    "Action": [
                        "s3:AbortMultipartUpload",
                        "s3:DeleteObject",
                        "s3:GetObject",
                        "s3:ListMultipartUploadParts",
                        "s3:PutObject",
                    ],
                    "Resource": ["arn:aws:s3:::modelport/checkpoints/*", "arn:aws:s3:::modelport/staging/*"],
                },
            ],
        }

    @pytest.mark.parametrize(
        ("consumer", "action", "key", "allowed"),
        [
            (TRAINER, "GetObject", "modelport/datasets/a", True),
            (TRAINER, "PutObject", "modelport/datasets/a", False),
            (TRAINER, "PutObject", "modelport/staging/a", True),
            (TRAINER, "GetObject", "modelport/releases/a", False),
            (TRAINER, "GetObject", "modelport/heldout/a", False),
            (TRAINER, "GetObject", "modelport/stagings", False),
            (TRAINER, "PutObject", "mlflow/a", False),
            (SERVER, "GetObject", "modelport/releases/a", True),
            (SERVER, "PutObject", "modelport/releases/a", False),
            (SERVER, "PutObject", "modelport/promotions/a", False),
            (SERVER, "GetObject", "modelport/staging/a", False),
            (MLFLOW, "PutObject", "mlflow/deep/down/a", True),
            (MLFLOW, "GetObject", "modelport/datasets/a", False),
        ],
    )
    def test_objects_are_reached_by_prefix(self, consumer, action, key, allowed):
        statements = json.loads(object_rights.minio_policy(consumer))["Statement"]
        granted = any(
            f"s3:{action}" in statement["Action"] and fnmatchcase(f"arn:aws:s3:::{key}", resource)
            for statement in statements
            for resource in statement["Resource"]
        )
        assert granted is allowed

    def test_a_whole_bucket_is_listed_without_a_condition(self):
        listing, _ = json.loads(object_rights.minio_policy(MLFLOW))["Statement"]
        assert listing == {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::mlflow"]}

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"consumers": [{"name": "x", "grants": []}]}, "'x' must be small letters"),
            ({"consumers": [TRAINER, TRAINER]}, "trainer is there twice"),
            ({"consumers": [{"name": "trainer", "grants": [{"bucket": "no", "read": [], "write": []}]}]}, "no bucket"),
            (
                {"consumers": [{"name": "trainer", "grants": [{"bucket": "mlflow", "read": ["rel"], "write": []}]}]},
                "end with a slash",
            ),
            (
                {"consumers": [{"name": "trainer", "grants": [{"bucket": "mlflow", "read": ["*/"], "write": []}]}]},
                "must be letters",
            ),
            ({"consumers": [{"name": "admin", "grants": []}]}, "administrator's name"),
            ({"key_generations": {"stranger": 2}}, "stranger is not among consumers"),
            ({"replicas": 2}, "1 or at least 4"),
            ({"engine": "seaweedfs"}, "tool_image"),
            ({"engine": "seaweedfs", "tool_image": "x:1", "replicas": 4}, "seaweedfs has one"),
            ({"engine": "gcs"}, "gcs: must be given"),
            ({"gcs": {"project": "p", "location": "l"}}, "gcs: must be given"),
        ],
    )
    def test_what_an_engine_does_not_do_is_refused(self, changes, complaint):
        with pytest.raises(ValueError, match=complaint):
            object_args.check(arguments(**changes))


class TestMinio:
    """What is registered for MinIO."""

    def test_a_new_key_gives_another_job_and_another_key_and_nothing_else(self):
        before, after = (
            {(each.kind, each.name): each.inputs for each in build(key_generations=g)} for g in ({}, {"trainer": 2})
        )
        changed = {key for key in after if after[key] != before[key]}
        assert changed == {
            ("ObjectStore", "store"),
            ("RandomPassword", "store-key-trainer"),
            ("Job", "store-setup"),
        }
        names = {found["Job", "store-setup"]["metadata"]["name"] for found in (before, after)}
        assert len(names) == 2

    def test_other_rights_give_another_job(self):
        wider = {**TRAINER, "grants": [{"bucket": "modelport", "read": ["datasets/", "releases/"], "write": []}]}
        names = {
            only(build(consumers=consumers), "Job").inputs["metadata"]["name"]
            for consumers in (CONSUMERS, [wider, SERVER, MLFLOW], CONSUMERS)
        }
        assert len(names) == 2

    def test_no_secret_can_be_read(self):
        for each in build():
            if each.kind != "ObjectStore":  # its arguments are this test's own, and plain
                assert "generated-for" not in readable(each.inputs), each.name
            if each.kind not in ("ObjectStore", "Secret"):
                assert "generated-for" not in json.dumps(each.inputs), each.name

    def test_each_consumer_has_its_own_key_once_the_server_has_it(self):
        seen = outputs()
        assert seen["endpoint"] == "http://store.registry.svc:9000"
        assert seen["access_keys"] == {"trainer": "trainer", "server": "server", "mlflow": "mlflow"}
        assert seen["secret_keys"]["trainer"] == "generated-for-store-key-trainer"
        assert len(set(seen["secret_keys"].values())) == 3
        assert seen["ready"].startswith("store-setup-")

    def test_a_certificate_makes_everything_speak_tls(self):
        found = build(tls_secret="store-tls")
        (container,) = only(found, "StatefulSet").inputs["spec"]["template"]["spec"]["containers"]
        assert {container[probe]["httpGet"]["scheme"] for probe in ("readinessProbe", "livenessProbe")} == {"HTTPS"}
        (setup,) = only(found, "Job").inputs["spec"]["template"]["spec"]["containers"]
        assert {"name": "STORE_SCHEME", "value": "https"} in setup["env"]
        assert outputs(tls_secret="store-tls")["endpoint"] == "https://store.registry.svc:9000"

    def test_four_replicas_are_one_store_that_bears_the_loss_of_one(self):
        found = build(replicas=4.0)
        server = only(found, "StatefulSet").inputs["spec"]
        (container,) = server["template"]["spec"]["containers"]
        assert container["args"][1] == ("http://store-{0...3}.store-peers.registry.svc.cluster.local:9000/data")
        assert server["serviceName"] == "store-peers"
        peers = only(found, "Service", "store-peers").inputs["spec"]
        assert peers["publishNotReadyAddresses"] is True  # they find each other before any is ready
        assert only(found, "PodDisruptionBudget").inputs["spec"]["maxUnavailable"] == 1
        claims = sorted(each.inputs["metadata"]["name"] for each in found if each.kind == "PersistentVolumeClaim")
        assert claims == [f"data-store-{index}" for index in range(4)]  # the names that a StatefulSet looks for

    def test_volumes_are_claimed_by_the_size_that_was_asked_for(self):
        found = build(size="200Gi", storage_class="fast")
        spec = only(found, "PersistentVolumeClaim").inputs["spec"]
        assert spec["resources"]["requests"]["storage"] == "200Gi"
        assert spec["storageClassName"] == "fast"

    def test_jobs_end_and_stay(self):
        spec = only(build(), "Job").inputs["spec"]
        assert spec["activeDeadlineSeconds"] > 0
        assert "ttlSecondsAfterFinished" not in spec


class TestMinioScript:
    """The script, run with a stand-in for MinIO's client that keeps what it is told in files."""

    CLIENT = """#!/bin/sh
state=$STATE; echo "$*" >> "$state/calls"
case "$1 $2 ${3:-}" in
"ls store "*) [ ! -f "$state/down" ] || { echo "connection refused"; exit 1; };;
"mb --ignore-existing "*) mkdir -p "$state/buckets/${3#store/}";;
"ilm rule import") cat > "$state/lifecycle-${4#store/}";;
"ilm rule rm") [ -f "$state/lifecycle-${6#store/}" ] && rm "$state/lifecycle-${6#store/}";;
"admin policy create") cp "$6" "$state/policies/$5";;
"admin policy list") ls "$state/policies";;
"admin policy remove") rm "$state/policies/$5";;
"admin policy attach")
    [ -f "$state/attached/$7" ] && { echo "The specified policy change is already in effect."; exit 1; }
    echo "$5" > "$state/attached/$7";;
"admin user add") read -r user; read -r key; echo "$key" > "$state/users/$user"; echo "Added $user $key";;
"admin user remove") rm "$state/users/$5" "$state/attached/$5";;
"version enable "*) : > "$state/buckets/${3#store/}/versioned";;
*) echo "unexpected: $*" >&2; exit 3;;
esac
"""

    @pytest.fixture
    def server(self, tmp_path):
        for folder in ("bin", "setup", "keys", "policies", "users", "attached", "buckets"):
            (tmp_path / folder).mkdir()
        program = tmp_path / "bin" / "mc"
        program.write_text(self.CLIENT)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "policies" / "readwrite").write_text("{}")  # one of MinIO's own
        return tmp_path

    def run(self, server: Path, consumers, keys, buckets=BUCKETS, **environment) -> subprocess.CompletedProcess[str]:
        for old in (server / "setup").iterdir():
            old.unlink()
        for name, content in minio.setup_files(buckets, consumers).items():
            (server / "setup" / name).write_text(content)
        for name, key in keys.items():
            (server / "keys" / name).write_text(key)
        return subprocess.run(
            ["/bin/sh", server / "setup" / "setup.sh"],
            env={
                "PATH": f"{server / 'bin'}:{os.environ['PATH']}",
                "STATE": str(server),
                "SETUP_DIR": str(server / "setup"),
                "KEYS_DIR": str(server / "keys"),
                "MC_CONFIG_DIR": str(server / "mc"),
                "TLS_DIR": str(server / "no-tls"),
                "STORE_SCHEME": "http",
                "STORE_ADDRESS": "store.registry.svc:9000",
                "ROOT_USER": "admin",
                "ROOT_PASSWORD": "root-secret",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    def test_buckets_users_and_rights_are_brought_about_and_kept_so(self, server):
        keys = {"trainer": "key-one", "server": "key-two", "mlflow": "key-three"}
        for _ in range(2):
            done = self.run(server, CONSUMERS, keys)
            assert done.returncode == 0, done.stderr
            assert {user.name: user.read_text().strip() for user in (server / "users").iterdir()} == keys
        assert (server / "buckets" / "modelport" / "versioned").exists()
        assert not (server / "buckets" / "mlflow" / "versioned").exists()
        rules = json.loads((server / "lifecycle-modelport").read_text())["Rules"]
        assert rules[0]["Filter"] == {"Prefix": "staging/"}
        assert rules[0]["Expiration"] == {"Days": 30}
        assert (server / "policies" / "consumer-trainer").read_text() == object_rights.minio_policy(TRAINER)
        # What a process was started with can be read by others, and its output is in the log.
        seen = (server / "calls").read_text() + done.stdout + done.stderr
        assert not [secret for secret in (*keys.values(), "root-secret") if secret in seen]

    def test_a_new_key_reaches_the_server(self, server):
        self.run(server, [TRAINER], {"trainer": "key-one"})
        self.run(server, [TRAINER], {"trainer": "key-two"})
        assert (server / "users" / "trainer").read_text().strip() == "key-two"

    def test_who_is_no_longer_wanted_goes_and_what_is_not_ours_stays(self, server):
        self.run(server, CONSUMERS, {"trainer": "a", "server": "b", "mlflow": "c"})
        (server / "users" / "somebody").write_text("theirs")
        done = self.run(server, [TRAINER], {"trainer": "a"})
        assert done.returncode == 0, done.stderr
        assert sorted(user.name for user in (server / "users").iterdir()) == ["somebody", "trainer"]
        assert sorted(policy.name for policy in (server / "policies").iterdir()) == ["consumer-trainer", "readwrite"]

    def test_a_lifecycle_that_is_no_longer_wanted_goes(self, server):
        self.run(server, [], {})
        assert (server / "lifecycle-modelport").exists()
        done = self.run(server, [], {}, buckets=[{"name": "modelport"}, {"name": "mlflow"}])
        assert done.returncode == 0, done.stderr
        assert not (server / "lifecycle-modelport").exists()

    def test_a_server_that_does_not_answer_is_said_with_the_reason(self, server):
        (server / "down").touch()
        done = self.run(server, CONSUMERS, {}, DEADLINE_SECONDS="0")
        assert done.returncode == 1
        assert "store.registry.svc:9000 did not answer within 0 seconds: connection refused" in done.stderr


class TestRealMinio:
    """A real one, after its real setup."""

    @pytest.fixture
    def endpoint(self, tmp_path) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {
            "HOME": str(tmp_path),
            "MINIO_ROOT_USER": object_args.ROOT,
            "MINIO_ROOT_PASSWORD": "root-secret",
            "MINIO_BROWSER": "off",
        }
        command = [program("minio"), "server", tmp_path / "data", "--address", address, "--quiet"]
        with (tmp_path / "log").open("w") as log, subprocess.Popen(command, env=environment, stdout=log) as running:
            try:
                yield f"http://{address}"
            finally:
                running.kill()

    def test_what_is_written_over_and_over_keeps_no_old_versions(self, endpoint, tmp_path):
        setup = tmp_path / "setup"
        setup.mkdir()
        for name, content in minio.setup_files(BUCKETS, []).items():
            (setup / name).write_text(content)
        for _ in range(2):
            done = subprocess.run(
                ["/bin/sh", setup / "setup.sh"],
                env={
                    "PATH": f"{program('mc').parent}:{os.environ['PATH']}",
                    "HOME": str(tmp_path),
                    "SETUP_DIR": str(setup),
                    "MC_CONFIG_DIR": str(tmp_path / "mc"),
                    "STORE_SCHEME": "http",
                    "STORE_ADDRESS": endpoint.removeprefix("http://"),
                    "ROOT_USER": object_args.ROOT,
                    "ROOT_PASSWORD": "root-secret",
                },
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
        admin = weed.client(endpoint, object_args.ROOT, "root-secret")
        for key in ("checkpoints/m/run/epoch", "replicas/m/r.json", "releases/a"):
            admin.put_object(Bucket="modelport", Key=key, Body=b"one")
            admin.put_object(Bucket="modelport", Key=key, Body=b"two")
            admin.delete_object(Bucket="modelport", Key=key)
        kept = admin.list_object_versions(Bucket="modelport")
        assert {version["Key"] for version in kept["Versions"]} == {"releases/a"}
        assert len(kept["Versions"]) == 2
        assert {marker["Key"] for marker in kept["DeleteMarkers"]} == {"releases/a"}


class TestSeaweedfs:
    """SeaweedFS: what is registered, and a real one with it."""

    def test_a_new_key_restarts_the_server_before_the_setup_runs_again(self):
        before, after = (build(**WEED, key_generations=g) for g in ({}, {"trainer": 2}))
        marks = [
            only(found, "StatefulSet").inputs["spec"]["template"]["metadata"]["annotations"]
            for found in (before, after)
        ]
        assert marks[0] != marks[1]
        assert len({only(found, "Job").inputs["metadata"]["name"] for found in (before, after)}) == 2
        assert only(before, "StatefulSet").inputs == only(build(**WEED), "StatefulSet").inputs

    def test_no_secret_can_be_read(self):
        for each in build(**WEED):
            if each.kind != "ObjectStore":  # its arguments are this test's own, and plain
                assert "generated-for" not in readable(each.inputs), each.name
            if each.kind not in ("ObjectStore", "Secret"):
                assert "generated-for" not in json.dumps(each.inputs), each.name

    def test_rights_by_prefix_hold_on_a_real_one_after_its_real_setup(self, tmp_path):
        secrets = {"trainer": "trainer-secret", "server": "server-secret", "mlflow": "mlflow-secret"}
        identities = object_rights.seaweedfs_identities(CONSUMERS, secrets, object_args.ROOT, "root-secret")
        for name, content in seaweedfs.setup_files(BUCKETS).items():
            (tmp_path / name).write_text(content)
        with weed.serving(tmp_path / "weed", identities) as endpoint:
            for _ in range(2):
                done = subprocess.run(
                    [sys.executable, "-P", tmp_path / "bucket_setup.py"],
                    env={
                        "S3_ENDPOINT": endpoint,
                        "AWS_ACCESS_KEY_ID": object_args.ROOT,
                        "AWS_SECRET_ACCESS_KEY": "root-secret",
                        "SETUP_DIR": str(tmp_path),
                        "DEADLINE_SECONDS": "30",
                    },
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                assert done.returncode == 0, done.stderr
            admin = weed.client(endpoint, object_args.ROOT, "root-secret")
            assert admin.get_bucket_versioning(Bucket="modelport")["Status"] == "Enabled"
            rules = admin.get_bucket_lifecycle_configuration(Bucket="modelport")["Rules"]
            assert {"Days": 30} in [rule.get("Expiration") for rule in rules]
            for key in ("datasets/a", "releases/a", "heldout/a"):
                admin.put_object(Bucket="modelport", Key=key, Body=b"x")

            trainer = weed.client(endpoint, "trainer", "trainer-secret")
            trainer.put_object(Bucket="modelport", Key="staging/a", Body=b"x")
            assert trainer.get_object(Bucket="modelport", Key="datasets/a")["Body"].read() == b"x"
            assert trainer.list_objects_v2(Bucket="modelport", Prefix="staging/")["KeyCount"] == 1
            refused = [
                lambda: trainer.get_object(Bucket="modelport", Key="releases/a"),
                lambda: trainer.get_object(Bucket="modelport", Key="heldout/a"),
                lambda: trainer.list_objects_v2(Bucket="modelport", Prefix="releases/"),
                lambda: trainer.list_objects_v2(Bucket="modelport"),
                lambda: trainer.put_object(Bucket="modelport", Key="datasets/b", Body=b"x"),
                lambda: trainer.put_object(Bucket="mlflow", Key="a", Body=b"x"),
            ]
            for number, attempt in enumerate(refused):
                with pytest.raises(ClientError) as error:
                    attempt()
                assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, number

    def test_a_store_that_does_not_answer_is_said(self, tmp_path):
        (tmp_path / "buckets.json").write_text(seaweedfs.setup_files(BUCKETS)["buckets.json"])
        done = subprocess.run(
            [sys.executable, "-P", SCRIPTS / "bucket_setup.py"],
            env={
                "S3_ENDPOINT": "http://127.0.0.1:1",
                "AWS_ACCESS_KEY_ID": "admin",
                "AWS_SECRET_ACCESS_KEY": "root-secret",
                "SETUP_DIR": str(tmp_path),
                "DEADLINE_SECONDS": "0",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "the object store at http://127.0.0.1:1 cannot be set up" in done.stderr


class TestGcs:
    """Google Cloud Storage: checked against what is registered; it was never run."""

    def test_buckets_are_private_and_names_are_the_projects_own(self):
        found = build(**GCS)
        buckets = {each.inputs["name"]: each.inputs for each in found if each.kind == "Bucket"}
        assert set(buckets) == {"acme-modelport", "acme-mlflow"}
        for bucket in buckets.values():
            assert bucket["uniformBucketLevelAccess"] is True
            assert bucket["publicAccessPrevention"] == "enforced"
            assert bucket.get("forceDestroy") is False
        assert buckets["acme-modelport"]["lifecycleRules"] == [
            {"action": {"type": "Delete"}, "condition": {"age": 30, "matchesPrefixes": ["staging/"]}},
            {
                "action": {"type": "Delete"},
                "condition": {"daysSinceNoncurrentTime": 1, "matchesPrefixes": ["checkpoints/", "replicas/"]},
            },
            {"action": {"type": "Delete"}, "condition": {"daysSinceNoncurrentTime": 30}},
        ]
        assert outputs(**GCS)["bucket_names"] == {"modelport": "acme-modelport", "mlflow": "acme-mlflow"}

    def test_rights_are_limited_by_prefix(self):
        rights = [each.inputs for each in build(**GCS) if each.kind == "BucketIAMMember"]
        readers = [right for right in rights if right["role"] == "roles/storage.objectViewer"]
        assert len(readers) == 3
        prefix = "projects/_/buckets/acme-modelport/objects/datasets/"
        (trainer,) = [right for right in readers if prefix in right["condition"]["expression"]]
        assert trainer["condition"]["expression"] == (
            f'resource.name.startsWith("{prefix}") || '
            'api.getAttribute("storage.googleapis.com/objectListPrefix", "").startsWith("datasets/")'
        )
        unconditional = [right for right in rights if not right.get("condition")]
        assert [right["bucket"] for right in unconditional] == ["acme-mlflow"]
        assert {right["role"] for right in rights} == {"roles/storage.objectViewer", "roles/storage.objectUser"}

    def test_a_new_generation_is_another_key(self):
        before, after = (
            {each.name for each in build(**GCS, key_generations=g) if each.kind == "HmacKey"}
            for g in ({}, {"trainer": 2})
        )
        assert after - before == {"store-trainer-key-2"}
        assert before - after == {"store-trainer-key-1"}
