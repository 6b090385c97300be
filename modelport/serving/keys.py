"""API keys of the gateway: generated, stored as hashes, each naming a caller."""

import hashlib
import secrets


def new_key() -> str:
    """A fresh API key of 256 random bits. It is shown once; only its `hash_key` is stored."""
    return secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the keys file holds of a key: its SHA-256 in hex.

    A plain hash is enough: the keys are random, so there is no dictionary to try.
    """
    return hashlib.sha256(key.encode()).hexdigest()
