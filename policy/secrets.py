"""No secret where anybody may read it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from policy.resources import UNKNOWN, Resource, entropy, mapping, pod_templates, sequence, texts

_SECRET_NAME = re.compile(r"(?:^|_)(?:PASSWORD|PASSWD|KEY|TOKEN|SECRET|CREDENTIALS?)$", re.IGNORECASE)
_FILE = re.compile(r"(?:/[a-z0-9._-]+)+")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_LOGIN_IN_URL = re.compile(r"://[^/\s:@\"']+:(?!\$)[^/\s@\"']+@")
_PUBLIC_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_WORD = re.compile(r"[A-Za-z0-9+/=]{24,}")
_SECRET_WORD = re.compile(r"[A-Za-z0-9+/=_-]{16,}")
# Bits for each letter: 40 random letters and digits have 4.7, English and identifiers in camel case less than 4.
_RANDOM_BITS = 4.0
_SECRET_BITS = 3.3


def no_plain_secrets(resource: Resource) -> Iterator[str]:
    """Passwords in environments, command lines and ConfigMaps, and Secrets that the state shows.

    Messages name places, never values.
    """
    for template in pod_templates(resource):
        for container in template.containers:
            place = f"{template.place}: container {container.get('name')}"
            for variable in map(mapping, sequence(container.get("env"))):
                problem = _variable(str(variable.get("name")), variable.get("value"))
                if problem:
                    yield f"{place}: env {variable['name']}: {problem}"
            for _, text in texts([container.get("command"), container.get("args")]):
                problem = _text(text)
                if problem:
                    yield f"{place}: its command line {problem}"
    if resource.type == "kubernetes:core/v1:ConfigMap":
        for key, text in mapping(resource.properties.get("data")).items():
            problem = _text(str(text))
            if problem:
                yield f"data[{key}]: {problem}"
    if resource.type == "kubernetes:core/v1:Secret" and resource.secret_paths is not None:
        for part in ("data", "stringData"):
            for place, _ in texts(mapping(resource.properties.get(part)), part):
                if not _covered(place, resource.secret_paths):
                    yield f"{place}: is plain text in the state; make it a secret output"


def no_leaks(resources: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
    """Values that are secret in one place of the stack and plain in another.

    Where the state does not say what is secret, what lies in Secrets and random passwords is.
    """
    known = {word for resource in resources for word in _secret_words(resource)}
    for resource in resources:
        for place, text in texts(resource.properties):
            if not _secret_place(resource, place) and any(secret in text for secret in known):
                yield resource, f"{place}: holds the value of a secret of this stack"


def _variable(name: str, value: Any) -> str | None:
    if not isinstance(value, str) or value in {"", UNKNOWN}:
        return None
    if _SECRET_NAME.search(name) and not _FILE.fullmatch(value):
        return "holds a literal; take it from a Secret with secretKeyRef"
    return _text(value)


def _text(text: str) -> str | None:
    if _PRIVATE_KEY.search(text):
        return "holds a private key"
    if _LOGIN_IN_URL.search(text):
        return "holds an address with a password in it"
    for word in _WORD.findall(_PUBLIC_CERTIFICATE.sub("", text)):
        mixed = any(map(str.isupper, word)) and any(map(str.islower, word)) and any(map(str.isdigit, word))
        if mixed and entropy(word) > _RANDOM_BITS:
            return f"holds {len(word)} letters that look random"
    return None


def _secret_words(resource: Resource) -> Iterator[str]:
    """What is worth searching for: a user's name or an address in a Secret may be known."""
    for place, text in texts(resource.properties):
        if _secret_place(resource, place) and text != UNKNOWN:
            for word in _SECRET_WORD.findall(text):
                if any(map(str.isdigit, word)) and any(map(str.isalpha, word)) and entropy(word) > _SECRET_BITS:
                    yield word


def _secret_place(resource: Resource, place: str) -> bool:
    if resource.secret_paths is not None:
        return _covered(place, resource.secret_paths)
    if resource.type == "kubernetes:core/v1:Secret":
        return place.startswith(("data", "stringData"))
    return resource.type.startswith("random:")


def _covered(place: str, secrets: frozenset[str]) -> bool:
    return any(place == secret or place.startswith((f"{secret}.", f"{secret}[")) for secret in secrets)
