"""Where pip and uv find packages on this machine, so that builds find them there too."""

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping

_VARIABLES = (
    "PIP_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_INSECURE_HOST",
)
"""What a step of a build is told where this machine is told it."""

_PIP_KEYS = {"index-url": "PIP_INDEX_URL", "extra-index-url": "PIP_EXTRA_INDEX_URL", "trusted-host": "PIP_TRUSTED_HOST"}
# What was said to pip only is meant for uv too.
_LIKEWISE = {
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "PIP_TRUSTED_HOST": ("UV_INSECURE_HOST",),
}


def package_settings(environment: Mapping[str, str], pip_config: str) -> str:
    """Shell assignments, a line each; none where nothing but the published index is used.

    Args:
        environment: variables of the process, which come first.
        pip_config: what ``pip config list`` prints.
    """
    found: dict[str, str] = {}
    for line in pip_config.splitlines():
        key, _, value = line.partition("=")
        variable = _PIP_KEYS.get(key.rpartition(".")[2])
        if variable and not key.startswith(":env:"):
            found[variable] = str(ast.literal_eval(value)).replace("\n", " ").strip()
    found |= {name: environment[name] for name in _VARIABLES if environment.get(name)}
    for source, targets in _LIKEWISE.items():
        if source in found and not any(target in found for target in targets):
            found[targets[0]] = found[source]
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(found.items()))


def own_package_settings() -> str:
    """`package_settings` of this machine."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, timeout=60
    )
    return package_settings(os.environ, asked.stdout if asked.returncode == 0 else "")
