"""What tests do at the object store itself, past all commands: fill it, read the records, try a key.

Run as ``python -m tests.whole.store COMMAND URL`` in the cluster's network, with an access key and a secret key as JSON
on standard input. It prints JSON: of

- ``fill``: what the store said when it refused the smallest object; the bucket of the dumps, which keeps no old
  versions, so that what is deleted is room again, is filled until then;
- ``empty``: nothing; what `fill` has written is removed;
- ``records``: the request of every prediction record there is;
- ``try``: null where the store takes the key, otherwise what it says.
"""

import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

_DUMPS, _BUCKET = "backups", "modelport"
_FILLER = "filler/"
_SIZES = (16 << 20, 1 << 20, 64 << 10, 1 << 10)
"""Of objects, in turn: each until it is refused."""


def main(what: str, url: str) -> None:
    """Do it."""
    client = _connect(url, **json.load(sys.stdin))
    said: Any = None
    match what:
        case "fill":
            said = [_fill(client, size) for size in _SIZES][-1]
        case "empty":
            for key in _keys(client, _DUMPS, _FILLER):
                client.delete_object(Bucket=_DUMPS, Key=key)
        case "records":
            said = [request for key in _keys(client, _BUCKET, "records/") for request in _requests(client, key)]
        case "try":
            said = _try(client)
        case _:
            sys.exit(f"unknown: {what}")
    print(json.dumps(said))


def _connect(url: str, access_key: str, secret_key: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}),
    )


def _fill(client: Any, size: int) -> str:
    """Write objects until one is refused; why it was."""
    from botocore.exceptions import ClientError

    content, number = os.urandom(size), 0
    while True:
        try:
            client.put_object(Bucket=_DUMPS, Key=f"{_FILLER}{size}/{number}", Body=content)
        except ClientError as error:
            return f"{error.response['Error']['Code']}: {error.response['Error']['Message']}"
        number += 1


def _keys(client: Any, bucket: str, prefix: str) -> Iterator[str]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from (row["Key"] for row in page.get("Contents", []))


def _requests(client: Any, key: str) -> list[str]:
    import pyarrow.parquet as parquet

    content = client.get_object(Bucket=_BUCKET, Key=key)["Body"].read()
    # Without threads of its own, which now and then were still there at the end, and then it is an abort.
    table = parquet.read_table(io.BytesIO(content), columns=["request_id"], use_threads=False, pre_buffer=False)
    requests: list[str] = table["request_id"].to_pylist()
    return requests


def _try(client: Any) -> str | None:
    """Whether a key is known is told before what it may."""
    from botocore.exceptions import ClientError

    try:
        client.list_objects_v2(Bucket=_BUCKET, Prefix="staging/", MaxKeys=1)
    except ClientError as error:
        code: str = error.response["Error"]["Code"]
        return None if code == "AccessDenied" else code
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
