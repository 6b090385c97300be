"""Brings an S3 store to what ``buckets.json`` says: buckets, versioning, lifecycles. It may run any number of times.

Environment: S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, SETUP_DIR, DEADLINE_SECONDS.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def connect() -> Any:
    """The store, with short patience: the loop around it has the deadline."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=os.environ["S3_ENDPOINT"],
        region_name="us-east-1",
        config=Config(
            connect_timeout=2,
            read_timeout=20,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
        ),
    )


def bring_about(client: Any, name: str, *, versioned: bool, lifecycle: dict[str, Any] | None) -> None:
    """One bucket, as it is wanted, in which one can write."""
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=name)
    except ClientError:
        client.create_bucket(Bucket=name)
    # Right after a start the store knows its buckets before it knows where to put an object.
    client.put_object(Bucket=name, Key=".writable", Body=b"written when the buckets were set up")
    if versioned:
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    if lifecycle:
        client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration=lifecycle)
    else:
        client.delete_bucket_lifecycle(Bucket=name)


def main() -> None:
    """Try until it is so, or the deadline has passed."""
    from botocore.exceptions import BotoCoreError, ClientError

    buckets = json.loads(Path(os.environ.get("SETUP_DIR", "/setup"), "buckets.json").read_text())
    end = time.monotonic() + float(os.environ.get("DEADLINE_SECONDS", "240"))
    client = connect()
    while True:
        try:
            for bucket in buckets:
                bring_about(client, bucket["name"], versioned=bucket["versioned"], lifecycle=bucket["lifecycle"])
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > end:
                sys.exit(f"the object store at {os.environ['S3_ENDPOINT']} cannot be set up: {error}")
            time.sleep(2)
        else:
            break
    print("buckets are there:", ", ".join(bucket["name"] for bucket in buckets))


if __name__ == "__main__":
    main()
