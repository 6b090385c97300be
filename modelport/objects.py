"""The object store, over S3: whole objects, conditional writes, and errors that say who was refused what.

Conditional writes (``If-None-Match: *`` and ``If-Match``) are what keeps two writers from both winning; SeaweedFS,
MinIO and Amazon S3 implement them alike. Others ignore the conditions in silence (Google Cloud Storage's S3 API does):
where a lost race must not go unnoticed, `ObjectStore.require_conditions` finds that out first.
"""

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelport.connection import Connection, Role
from modelport.errors import Conflict, ModelportError, Refused, Unavailable

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_s3.client import S3Client


_FULL, _INSUFFICIENT_STORAGE = ("XMinioStorageFull", "QuotaExceeded"), 507
_PROBE = ".probe"
_STALE_ETAG = f'"{"0" * 32}"'
"""Of no object: a write that it is the condition of has to fail."""


_MAKING_A_CLIENT = threading.Lock()
"""Clients may be used by any thread; a session makes one at a time."""


@cache
def _session() -> "Session":
    """One for the process: each new one reads botocore's description of S3 anew, a tenth of a second."""
    import boto3

    return boto3.session.Session()


class NotFound(ModelportError):
    """There is no object of this key."""


@dataclass(frozen=True)
class ObjectInfo:
    """One row of a listing."""

    key: str
    size: int
    """Bytes."""
    modified: datetime
    """With time zone."""


class ObjectStore:
    """One bucket, seen by one identity.

    Every method raises `Unavailable` when the endpoint does not answer and `Refused` when the identity lacks the right.
    """

    def __init__(self, client: "S3Client", bucket: str, identity: str, endpoint: str) -> None:
        self.client = client
        self.bucket = bucket
        self.identity = identity
        self.endpoint = endpoint
        self._conditional = False

    @classmethod
    def connect(cls, connection: Connection, role: Role) -> "ObjectStore":
        """The platform's bucket as `role`. Nothing is sent before the first call."""
        from botocore.config import Config

        key = connection.key_for(role)
        config = Config(
            connect_timeout=3,
            read_timeout=30,
            retries={"total_max_attempts": 3, "mode": "standard"},
            s3={"addressing_style": "path"},
            # Checksums in trailers are newer than many S3 implementations; our digests are verified above them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # A laptop's proxy settings must not catch requests to a service on the same machine or cluster.
            proxies={},
        )
        with _MAKING_A_CLIENT:
            client = _session().client(
                "s3",
                endpoint_url=connection.s3_endpoint,
                region_name=connection.s3_region,
                aws_access_key_id=key.access_key,
                aws_secret_access_key=key.secret_key,
                config=config,
            )
        return cls(client, connection.bucket, role.value, connection.s3_endpoint)

    def get(self, key: str) -> bytes:
        """Bytes of an object; raises `NotFound`."""
        return self.get_tagged(key)[0]

    def get_tagged(self, key: str) -> tuple[bytes, str]:
        """Bytes and ETag of an object, the latter for `replace`; raises `NotFound`."""
        with self._explained("read", key):
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
            return answer["Body"].read(), answer["ETag"]

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        try:
            with self._explained("read", key):
                self.client.head_object(Bucket=self.bucket, Key=key)
        except NotFound:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing what is there."""
        with self._explained("write", key):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one already; whether it was written."""
        try:
            with self._explained("write", key):
                self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
        except Conflict:
            return False
        return True

    def replace(self, key: str, data: bytes, etag: str | None) -> str:
        """Write an object if it is still the one that carried `etag` (None: if there is still none); the new ETag.

        Raises:
            Conflict: somebody else wrote it first. Nothing was written.
        """
        with self._explained("write", key):
            if etag is None:
                answer = self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
            else:
                answer = self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfMatch=etag)
            return answer["ETag"]

    def require_conditions(self, prefix: str) -> None:
        """Make sure, once, that this store honours the conditions of `put_new` and `replace`.

        Leaves a probe object under `prefix`, which this identity must be allowed to write.

        Raises:
            Refused: it ignores them: two writers at once would both win, and none would be told.
        """
        if self._conditional:
            return
        key = f"{prefix}{_PROBE}"
        # Whether it was there already or not: the second of two cannot be new.
        honoured = not self.put_new(key, b"") or not self.put_new(key, b"")
        if honoured:
            try:
                self.replace(key, b"", _STALE_ETAG)
                honoured = False
            except Conflict:
                pass
        if not honoured:
            raise Refused(
                f"the object store at {self.endpoint} ignores conditional writes: of two writers at once both would "
                "win, and one be lost in silence",
                file=f"s3://{self.bucket}/{key}",
                remedy="use a store that honours If-None-Match and If-Match when writing: MinIO, SeaweedFS, Amazon S3 "
                "(Google Cloud Storage's S3 API does not)",
            )
        self._conditional = True

    def upload(self, path: Path, key: str) -> None:
        """Write a file's content as an object, in parts when it is large."""
        with self._explained("write", key):
            self.client.upload_file(str(path), self.bucket, key)

    def download(self, key: str, path: Path) -> None:
        """Write an object's content to a file, which appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with self._explained("read", key):
                self.client.download_file(self.bucket, key, str(temporary))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose keys start with `prefix`, by key."""
        with self._explained("list", prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for row in page.get("Contents", []):
                    if "Key" in row and "Size" in row and "LastModified" in row:
                        yield ObjectInfo(row["Key"], row["Size"], row["LastModified"])

    def delete(self, key: str) -> None:
        """Remove an object; removing one that is not there is no error."""
        with self._explained("delete", key):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    @contextmanager
    def _explained(self, action: str, key: str) -> Generator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"s3://{self.bucket}/{key}"
        try:
            yield
        except ClientError as error:
            raise self._translated(error, action, place) from error
        except BotoCoreError as error:
            raise Unavailable(
                f"the object store at {self.endpoint} did not answer a {action}: {error}",
                file=place,
                remedy="see `modelport local status`; the same command can be run again",
            ) from error
        except Boto3Error as error:  # upload_file and download_file wrap the cause
            cause = error.__context__
            if isinstance(cause, ClientError):
                raise self._translated(cause, action, place) from error
            raise Unavailable(f"the {action} failed: {error}", file=place) from error

    def _translated(self, error: Any, action: str, place: str) -> ModelportError:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        if status == 404:
            return NotFound(f"there is no such object ({code})", file=place)
        if code in _FULL or status == _INSUFFICIENT_STORAGE:
            return Unavailable(
                f"the object store at {self.endpoint} is full",
                file=place,
                remedy="nothing was written; run it again when there is room",
            )
        if status in (409, 412):
            return Conflict("somebody else wrote it first", file=place, remedy="look at what is there and run it again")
        if status in (401, 403):
            return Refused(
                f"the {self.identity} identity may not {action} this ({code})",
                file=place,
                remedy="use a connection whose identity has this right, or renew a stale connection file",
            )
        return Unavailable(f"the object store failed a {action}: {error}", file=place)
