"""Who may do what in an object store, and how long its objects stay: said once, rendered for each engine. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.object_args import Consumer, StoreBucket
from components.pods import Manifest

NONCURRENT_DAYS = 30

_READ = ("s3:GetObject",)
_WRITE = (
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
)


def minio_policy(consumer: Consumer) -> str:
    """A consumer's policy, as JSON in the language of S3: objects by prefix, and lists of these prefixes only."""
    statements: list[Manifest] = []
    for grant in consumer["grants"]:
        arn = f"arn:aws:s3:::{grant['bucket']}"
        listed = sorted({*grant["read"], *grant["write"]})
        if listed:
            listing: Manifest = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [arn]}
            if "" not in listed:
                listing["Condition"] = {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in listed]}}
            statements.append(listing)
        for actions, prefixes in ((_READ, grant["read"]), (_WRITE, grant["write"])):
            if prefixes:
                resources = [f"{arn}/{prefix}*" for prefix in sorted(prefixes)]
                statements.append({"Effect": "Allow", "Action": list(actions), "Resource": resources})
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, sort_keys=True, separators=(",", ":"))


def seaweedfs_actions(consumer: Consumer) -> list[str]:
    """SeaweedFS's names for a consumer's rights."""
    found: list[str] = []
    for grant in consumer["grants"]:
        for prefix in (*grant["read"], *grant["write"]):
            found += [f"{action}:{_scope(grant['bucket'], prefix)}" for action in ("Read", "List")]
        found += [f"Write:{_scope(grant['bucket'], prefix)}" for prefix in grant["write"]]
    return found


def seaweedfs_identities(
    consumers: Sequence[Consumer], secrets: Mapping[str, str], admin: str, admin_secret: str
) -> str:
    """The file of ``weed server -s3.config``: JSON with the secret key of each consumer and of the administrator."""
    everybody = [(consumer["name"], secrets[consumer["name"]], seaweedfs_actions(consumer)) for consumer in consumers]
    return json.dumps(
        {
            "identities": [
                {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}
                for name, secret, actions in [*everybody, (admin, admin_secret, ["Admin"])]
            ]
        },
        sort_keys=True,
    )


def lifecycle(bucket: StoreBucket) -> dict[str, Any] | None:
    """A bucket's lifecycle configuration as S3 spells it; None where nothing expires."""
    rules: list[Manifest] = [
        {
            "ID": f"expire-{index}",
            "Status": "Enabled",
            "Filter": {"Prefix": rule["prefix"]},
            "Expiration": {"Days": int(rule["days"])},
        }
        for index, rule in enumerate(bucket.get("expire", []))
    ]
    if bucket.get("versioning", False):
        rules += [
            {
                "ID": f"unversioned-{index}",
                "Status": "Enabled",
                "Filter": {"Prefix": prefix},
                "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            }
            for index, prefix in enumerate(bucket.get("unversioned", []))
        ]
        rules.append(
            {
                "ID": "noncurrent",
                "Status": "Enabled",
                "Filter": {"Prefix": ""},
                "NoncurrentVersionExpiration": {"NoncurrentDays": int(bucket.get("noncurrent_days", NONCURRENT_DAYS))},
            }
        )
    return {"Rules": rules} if rules else None


def gcs_lifecycle(bucket: StoreBucket) -> list[Manifest]:
    """A bucket's lifecycle rules as `gcp.storage.Bucket` takes them."""
    rules: list[Manifest] = []
    for rule in bucket.get("expire", []):
        condition: Manifest = {"age": int(rule["days"])}
        if rule["prefix"]:
            condition["matches_prefixes"] = [rule["prefix"]]
        rules.append({"action": {"type": "Delete"}, "condition": condition})
    if bucket.get("versioning", False):
        if prefixes := bucket.get("unversioned", []):
            condition = {"days_since_noncurrent_time": 1, "matches_prefixes": list(prefixes)}
            rules.append({"action": {"type": "Delete"}, "condition": condition})
        days = int(bucket.get("noncurrent_days", NONCURRENT_DAYS))
        rules.append({"action": {"type": "Delete"}, "condition": {"days_since_noncurrent_time": days}})
    return rules


def gcs_condition(bucket: str, prefix: str) -> str | None:
    """Expression that limits a role to objects of a prefix, and to lists of it; None for the whole bucket."""
    if not prefix:
        return None
    return (
        f'resource.name.startsWith("projects/_/buckets/{bucket}/objects/{prefix}") || '
        f'api.getAttribute("storage.googleapis.com/objectListPrefix", "").startsWith("{prefix}")'
    )


def _scope(bucket: str, prefix: str) -> str:
    return f"{bucket}/{prefix}*" if prefix else bucket
