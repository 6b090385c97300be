"""Files that a control plane is configured by."""

import base64
import datetime as dt
import ipaddress
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


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
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_private(folder / "service-accounts.key", _pem(key))
    (folder / "service-accounts.pub").write_bytes(public)


def write_certificates(folder: Path, advertised: str, services: str) -> None:
    """Write ``ca``, the API server's certificate, and ``api-client`` that it shows to kubelets.

    Args:
        folder: where the files go, NAME.crt and NAME.key.
        advertised: address of the API server beside 127.0.0.1.
        services: network of the Services; the API server's own has its first address.
    """
    authority = _name("modelport-test")
    key = ec.generate_private_key(ec.SECP256R1())
    first = ipaddress.ip_network(services)[1]
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address(advertised), first]
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    own = [x509.DNSName(name) for name in [*names, "kubernetes.default.svc.cluster.local"]]
    served = x509.SubjectAlternativeName([*own, *(x509.IPAddress(address) for address in addresses)])
    serves, asks = (
        x509.ExtendedKeyUsage([purpose])
        for purpose in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    )
    _write_pair(folder / "ca", key, _certificate(authority, key, authority, key, []))
    for name, extensions in (("apiserver", [served, serves]), ("api-client", [asks])):
        own_key = ec.generate_private_key(ec.SECP256R1())
        _write_pair(folder / name, own_key, _certificate(_name("kube-apiserver"), own_key, authority, key, extensions))


def _write_pair(file: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    write_private(file.with_suffix(".key"), _pem(key))
    file.with_suffix(".crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    extensions: Sequence[x509.ExtensionType],
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    is_authority = key is signer
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_key_usage(is_authority=is_authority), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    unused = ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        **dict.fromkeys(unused, False),
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that only the owner can read."""
    write_private(file, json.dumps(content, indent=1))


def write_private(file: Path, text: str) -> None:
    """Write a text that only the owner can read."""
    file.touch(mode=0o600)
    file.write_text(text)
