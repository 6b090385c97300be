"""MLflow's model registry, as people and tools see releases in it: a version per release, found by its digest.

MLflow serves nothing and decides nothing here. It is a mirror, and everything in it can be made again.
"""

import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from modelport.connection import Connection
from modelport.errors import ModelportError, Refused, Unavailable
from modelport.release.manifest import ReleaseManifest

DIGEST_TAG = "modelport.digest"
RUN_KEY_TAG = "modelport.run_key"
VARIANTS_TAG = "modelport.variants"
"""Precisions that the release carries beside fp32; absent where there are none."""


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model that stands for a release."""

    version: int
    digest: str
    run_id: str | None
    """MLflow run that trained it."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


class Registry:
    """Registered versions and their aliases. Every method raises `Unavailable` when MLflow does not answer."""

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self._address = address

    @classmethod
    def connect(cls, connection: Connection) -> "Registry":
        """MLflow of a platform; nothing is sent before the first call.

        Raises:
            Unavailable: the connection names none.
        """
        connection.configure_tracking()
        # The client's telemetry and version checks would reach for the internet.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        client: Any = MlflowClient(tracking_uri=connection.tracking_uri, registry_uri=connection.tracking_uri)
        return cls(client, connection.tracking_uri)

    def versions(self, model: str) -> list[RegisteredVersion]:
        """Versions of a model that stand for releases, oldest first; the first of a digest is the release's."""
        found: list[RegisteredVersion] = []
        with self._explained():
            token: str | None = None
            while True:
                page = self._client.search_model_versions(f"name = '{model}'", max_results=1000, page_token=token)
                found += [
                    RegisteredVersion(int(row.version), row.tags[DIGEST_TAG], row.run_id or None, dict(row.tags))
                    for row in page
                    # Digests become names of folders: what else somebody wrote into the tag is no release.
                    if re.fullmatch(r"[0-9a-f]{64}", row.tags.get(DIGEST_TAG, ""))
                ]
                token = page.token
                if not token:
                    break
        return sorted(found, key=lambda row: row.version)

    def find(self, model: str, digest: str) -> RegisteredVersion | None:
        """The version of a release."""
        return next((row for row in self.versions(model) if row.digest == digest), None)

    def numbered(self, model: str, number: int) -> str | None:
        """Digest of the release that a version number stands for here."""
        return next((row.digest for row in self.versions(model) if row.version == number), None)

    def of_run(self, model: str, run_id: str) -> list[RegisteredVersion]:
        """Every release of a training run: the one in fp32 alone, then those that carry more, oldest first."""
        rows = [row for row in self.versions(model) if row.run_id == run_id]
        return sorted(rows, key=lambda row: row.tags.get(VARIANTS_TAG, "") != "")

    def register(self, manifest: ReleaseManifest, digest: str, source: str) -> int:
        """The version number of a release, which is registered unless it is already.

        Two at once, or a request that was sent twice, may make two versions; every caller then removes all but the
        first, so that one remains.
        """
        model = manifest.model
        rows = self._of_digest(model, digest)
        if not rows:
            self._unless("RESOURCE_ALREADY_EXISTS", self._client.create_registered_model, model)
            tags = {
                DIGEST_TAG: digest,
                RUN_KEY_TAG: manifest.run_key,
                "modelport.code_digest": manifest.code_digest,
                "modelport.data_digest": manifest.data_digest,
                "modelport.staging": source,
                "modelport.task": manifest.task.value,
            }
            if manifest.variants:
                tags[VARIANTS_TAG] = ",".join(sorted(manifest.variants))
            with self._explained():
                # One request makes the version with all its tags: there is no moment in which it is half registered.
                self._client.create_model_version(
                    model, source, run_id=manifest.mlflow_run_id, tags=tags, await_creation_for=0
                )
            rows = self._of_digest(model, digest)
        if not rows:
            raise Unavailable(f"MLflow at {self._address} does not show the version that it made")
        for row in rows[1:]:
            self._unless("RESOURCE_DOES_NOT_EXIST", self._client.delete_model_version, model, str(row.version))
        return rows[0].version

    def aliases(self, model: str) -> dict[str, str]:
        """Digest by alias; an alias on a version that stands for no release gives an empty digest."""
        digests = {row.version: row.digest for row in self.versions(model)}
        with self._explained():
            rows = self._client.search_registered_models(f"name = '{model}'", max_results=1)
        if not rows:
            return {}
        return {alias: digests.get(int(version), "") for alias, version in rows[0].aliases.items()}

    def set_alias(self, model: str, alias: str, digest: str | None) -> None:
        """Point an alias at a release's version; None removes it."""
        if digest is None:
            with self._explained():
                self._client.delete_registered_model_alias(model, alias)
            return
        row = self.find(model, digest)
        if row is None:
            raise Unavailable(f"MLflow has no version of release {digest[:12]}")
        with self._explained():
            self._client.set_registered_model_alias(model, alias, str(row.version))

    def describe(self, model: str, row: RegisteredVersion, tags: Mapping[str, str]) -> None:
        """Set those of the tags that the version does not carry yet."""
        for key, value in tags.items():
            if row.tags.get(key) != value:
                with self._explained():
                    self._client.set_model_version_tag(model, str(row.version), key, value)

    def attach(self, run_id: str, path: str, document: Mapping[str, Any]) -> None:
        """Write a JSON document among a run's artifacts."""
        with self._explained():
            self._client.log_dict(run_id, dict(document), path)

    def _of_digest(self, model: str, digest: str) -> list[RegisteredVersion]:
        return [row for row in self.versions(model) if row.digest == digest]

    def _unless(self, expected: str, call: Callable[..., Any], *arguments: str) -> None:
        """Call, where an error of the code `expected` means that somebody else did the same first."""
        from mlflow.exceptions import MlflowException

        with self._explained():
            try:
                call(*arguments)
            except MlflowException as error:
                if error.error_code != expected:
                    raise

    @contextmanager
    def _explained(self) -> Generator[None]:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            yield
        except MlflowException as error:
            raise self._translated(error) from error
        except (RequestException, OSError) as error:
            raise Unavailable(f"MLflow at {self._address} does not answer: {error}") from error

    def _translated(self, error: Any) -> ModelportError:
        text = str(error).splitlines()[0]
        if error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED") or " 401 " in text:
            return Refused(f"MLflow at {self._address} refused this: {text}", remedy="check the connection's user")
        if error.error_code == "INVALID_PARAMETER_VALUE":
            return ModelportError(f"MLflow at {self._address} does not take this: {text}")
        return Unavailable(
            f"MLflow at {self._address} failed: {text}",
            remedy="see `modelport local status`; the same command can be run again",
        )
