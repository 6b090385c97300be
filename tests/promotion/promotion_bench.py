"""Releases small enough to make in milliseconds, staged on a real object store as training would stage them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelport.connection import Connection, Role
from modelport.objects import ObjectStore
from modelport.promotion import Changed, Evidence, LogEntry, desired, gate, promote, read_log
from modelport.promotion.log import append
from modelport.promotion.mirror import sync
from modelport.release import RELEASES, TRAINING_DATA_FILE, Registry, Release, canonical_json, sha256, staging_prefix
from modelport.release.store import write_release
from tests.serving import tiny_release as tiny

MODEL_YAML = """\
name: {name}
task: segment
owner: tests
license: Apache-2.0
classes: [{{name: background}}, {{name: red}}]
data: {{name: {name}}}
train:
  select: {{metric: dice}}
gate: {{metric: dice, minimum: 0.9, margin: -0.02}}
"""

GOOD, CLOSE, WORSE, BAD = 0.5, 0.49, 0.65, 0.9
"""Thresholds of releases: what is redder is the object, and the truth is what is redder than about a half."""


@dataclass
class Bench:
    """One model of a test's own, on the shared store."""

    model: str
    root: Path
    connection: Connection
    warnings: list[str] = field(default_factory=list)

    @property
    def store(self) -> ObjectStore:
        return ObjectStore.connect(self.connection, Role.PROMOTER)

    @property
    def trainer(self) -> ObjectStore:
        return ObjectStore.connect(self.connection, Role.TRAINER)

    @property
    def registry(self) -> Registry:
        return Registry.connect(self.connection)

    @property
    def data(self) -> str:
        return str(self.root / "data")

    def away(self) -> Connection:
        """The same platform while MLflow is away."""
        return self.connection.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})

    def stage(
        self,
        threshold: float = GOOD,
        *,
        flipped: bool = False,
        register: bool = True,
        changes: Mapping[str, bytes] | None = None,
        **fields: Any,
    ) -> str:
        """Stage a release as the trainer, and register it as training does; its digest."""
        files = tiny.release_files(self.model, threshold=threshold, flipped=flipped)
        files[TRAINING_DATA_FILE] = canonical_json({"images": self.images("train")})
        files |= changes or {}
        manifest = tiny.manifest(self.model, files).model_copy(update=fields)
        release = write_release(manifest, files, self.root / "made")
        uri = release.upload(self.trainer, staging_prefix(self.model))
        if register:
            self.registry.register(manifest, release.digest, uri)
        return release.digest

    def images(self, split: str) -> list[str]:
        return [sha256(file.read_bytes()) for file in sorted((self.root / "data" / split / "images").iterdir())]

    def gate(self, digest: str | None = None, **options: Any) -> Evidence:
        arguments = {"connection": self.connection, "warn": self.warnings.append} | options
        return gate(self.model, digest, arguments.pop("heldout", self.data), **arguments)

    def promote(self, digest: str | None = None, **options: Any) -> Changed:
        arguments = {"connection": self.connection, "warn": self.warnings.append} | options
        return promote(self.model, digest, **arguments)

    def promoted(self, threshold: float = GOOD, **fields: Any) -> str:
        """Stage, gate and promote a release."""
        digest = self.stage(threshold, **fields)
        assert self.gate(digest).passed
        self.promote(digest)
        return digest

    def served(self, threshold: float = GOOD) -> str:
        """As `promoted`, but by the hand of a promoter who skips the gate: for tests of what comes after it."""
        digest = self.stage(threshold, register=False)
        Release.open(self.root / "made" / digest, digest).upload(self.store, RELEASES)
        append(self.store, read_log(self.store, self.model), self.entry(digest))
        return digest

    def mirror(self) -> None:
        """Bring MLflow up to date, as the next command would."""
        sync(self.store, self.connection, self.model, None, self.warnings.append)

    def entry(self, to: str, **changes: Any) -> LogEntry:
        """An entry that may follow in the log."""
        log = read_log(self.store, self.model)
        fields: dict[str, Any] = {
            "seq": len(log.entries) + 1,
            "time": datetime.now(UTC),
            "who": "somebody@somewhere",
            "action": "promote",
            "from": desired(log),
            "to": to,
            "why": "",
            "evidence": None,
            "evidence_sha256": None,
            "previous": log.entries[-1].hash if log.entries else None,
        }
        return LogEntry.model_validate(fields | changes)

    def released(self, digest: str) -> list[str]:
        prefix = f"releases/{digest}/"
        return sorted(row.key.removeprefix(prefix) for row in self.store.list(prefix))

    def fetched(self, digest: str) -> Release:
        """As a server would fetch it."""
        store = ObjectStore.connect(self.connection, Role.SERVER)
        return Release.fetch(store, "releases", digest, self.root / "fetched" / digest)
