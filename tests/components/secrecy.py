"""What of a resource's inputs anybody may read: in the engine's state, its log, its previews."""

import json
from typing import Any

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"


def readable(inputs: Any) -> str:
    """The inputs as text, less what the engine was told to keep secret."""
    return json.dumps(_without_secrets(inputs))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            return None
        return {key: _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value
