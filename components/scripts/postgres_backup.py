"""Stores a dump in the object store, sees that it is there whole, and removes dumps that are older than it should keep.

The newest dump is never removed, whatever its age: a backup that has stopped must not eat the last one.

Environment: DUMP (the file), S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, BUCKET, PREFIX,
KEEP_DAYS.
"""

import hashlib
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any


def connect() -> Any:
    """The object store."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=os.environ["S3_ENDPOINT"],
        config=Config(
            connect_timeout=10,
            read_timeout=120,
            retries={"total_max_attempts": 5, "mode": "standard"},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
        ),
    )


def store(client: Any, dump: Path, bucket: str, key: str) -> None:
    """Upload, and compare what the store says that it has.

    Raises:
        SystemExit: the dump is empty, or the store has something else.
    """
    size = dump.stat().st_size
    if size == 0:
        sys.exit(f"{dump} is empty: nothing was stored")
    with dump.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    client.upload_file(str(dump), bucket, key, ExtraArgs={"Metadata": {"sha256": digest}})
    head = client.head_object(Bucket=bucket, Key=key)
    if head["ContentLength"] != size or head["Metadata"].get("sha256") != digest:
        sys.exit(f"s3://{bucket}/{key} is not what was stored: {head['ContentLength']} of {size} bytes")
    print(f"stored s3://{bucket}/{key}: {size} bytes, sha256 {digest}")


def forget(client: Any, bucket: str, prefix: str, before: datetime) -> None:
    """Remove dumps from before a time, but for the newest one."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    dumps = sorted(found["Key"] for page in pages for found in page.get("Contents", []) if _time(found["Key"], prefix))
    for key in dumps[:-1]:
        if (_time(key, prefix) or before) < before:
            client.delete_object(Bucket=bucket, Key=key)
            print(f"removed s3://{bucket}/{key}: older than it should be kept")


def _time(key: str, prefix: str) -> datetime | None:
    """When a dump was made, by its name; None for what is no dump of ours."""
    try:
        return datetime.strptime(key.removeprefix(prefix), "%Y-%m-%dT%H%M%SZ.dump").replace(tzinfo=UTC)
    except ValueError:
        return None


def main() -> None:
    """Store one dump and forget old ones."""
    client, bucket, prefix = connect(), os.environ["BUCKET"], os.environ["PREFIX"]
    now = datetime.now(UTC)
    store(client, Path(os.environ["DUMP"]), bucket, f"{prefix}{now:%Y-%m-%dT%H%M%SZ}.dump")
    forget(client, bucket, prefix, now - timedelta(days=int(os.environ["KEEP_DAYS"])))


if __name__ == "__main__":
    main()
