"""Write digests of external images into ``components/images.json``: ``make pin-images``, with registries in reach.

A digest is only ever what a registry answered; an image that nobody answers for stays unpinned, and is named.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from components.versions import Image

_FILE = Path(__file__).resolve().parent.parent / "components" / "images.json"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SECONDS = 60


def pin(file: Path = _FILE) -> list[str]:
    """Ask for every image's digest with skopeo, and write those that came.

    Args:
        file: JSON object of digests by image; replaced in one step.

    Returns:
        What could not be asked, a line each.

    Raises:
        SystemExit: skopeo is not installed.
    """
    if shutil.which("skopeo") is None:
        raise SystemExit("error: skopeo is not installed\n  remedy: apt-get install skopeo, or brew install skopeo")
    digests: dict[str, str] = {}
    failures: list[str] = []
    for image in sorted(Image):
        done = subprocess.run(
            ["skopeo", "inspect", "--no-tags", "--format", "{{.Digest}}", f"docker://{image}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        digest = done.stdout.strip()
        if done.returncode == 0 and _DIGEST.fullmatch(digest):
            digests[image] = digest
        else:
            failures.append(f"{image}: {(done.stderr.strip() or digest or 'no answer').splitlines()[-1]}")
    if digests:
        known: dict[str, str] = json.loads(file.read_text())
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps({**known, **digests}, indent=2, sort_keys=True) + os.linesep)
        temporary.replace(file)
    return failures


if __name__ == "__main__":
    failed = pin()
    for line in failed:
        print(f"unpinned: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)
