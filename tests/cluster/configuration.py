"""Files that a control plane is configured by."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def admission_configuration() -> dict[str, Any]:
    """The restricted Pod Security Standard in every namespace but kube-system, enforced, and warned about."""
    modes = ("enforce", "warn", "audit")
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [
            {
                "name": "PodSecurity",
                "configuration": {
                    "apiVersion": "pod-security.admission.config.k8s.io/v1",
                    "kind": "PodSecurityConfiguration",
                    "defaults": {
                        **dict.fromkeys(modes, "restricted"),
                        **{f"{mode}-version": "latest" for mode in modes},
                    },
                    "exemptions": {"namespaces": ["kube-system"]},
                },
            }
        ],
    }


def egress_configuration(socket: Path) -> dict[str, Any]:
    """What the API server sends to pods and webhooks goes to this socket, as HTTP CONNECT."""
    connection = {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": str(socket)}}}
    return {
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{"name": "cluster", "connection": connection}],
    }


def kubeconfig(url: str, token: str, authority: bytes) -> dict[str, Any]:
    """A kubeconfig with one context, ``modelport-test``; `authority` is PEM."""
    name = "modelport-test"
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(authority).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def write_service_account_keys(folder: Path) -> None:
    """Write the key pair that service account tokens are signed and checked with."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_private(folder / "service-accounts.key", private.decode())
    (folder / "service-accounts.pub").write_bytes(public)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that only the owner can read."""
    write_private(file, json.dumps(content, indent=1))


def write_private(file: Path, text: str) -> None:
    """Write a text that only the owner can read."""
    file.touch(mode=0o600)
    file.write_text(text)
