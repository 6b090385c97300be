"""Fills an object store until it takes nothing more, and empties it.

Run as ``python -m tests.whole.filler fill|empty URL`` in the cluster's network, with the credentials of the dumps as
JSON on standard input: their bucket keeps no old versions, so that what is deleted is room again. After `fill` it
prints what the store said when it refused the smallest object.
"""

import json
import os
import sys
from typing import Any

_BUCKET = "backups"
_PREFIX = "filler/"
_SIZES = (16 << 20, 1 << 20, 64 << 10, 1 << 10)
"""Of objects, in turn: each until it is refused."""


def main(what: str, url: str) -> None:
    """Fill, or empty."""
    client = _connect(url, json.load(sys.stdin))
    if what == "fill":
        print([_fill(client, size) for size in _SIZES][-1])
    else:
        _empty(client)


def _connect(url: str, keys: dict[str, str]) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=keys["access-key"],
        aws_secret_access_key=keys["secret-key"],
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}),
    )


def _fill(client: Any, size: int) -> str:
    """Write objects until one is refused; why it was."""
    from botocore.exceptions import ClientError

    content, number = os.urandom(size), 0
    while True:
        try:
            client.put_object(Bucket=_BUCKET, Key=f"{_PREFIX}{size}/{number}", Body=content)
        except ClientError as error:
            return f"{error.response['Error']['Code']}: {error.response['Error']['Message']}"
        number += 1


def _empty(client: Any) -> None:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=_PREFIX):
        for row in page.get("Contents", []):
            client.delete_object(Bucket=_BUCKET, Key=row["Key"])


if __name__ == "__main__":
    main(*sys.argv[1:])
