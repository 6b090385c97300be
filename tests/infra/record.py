"""Record what the present program leaves in a stack, for a release: ``python -m tests.infra.record``.

`test_upgrade` brings the next program up over it. The passphrase of these states is public; the secrets in them guard
nothing.
"""

import gzip
import json
import sys
import tempfile
from pathlib import Path

from tests.cluster.control_plane import ControlPlane
from tests.infra.conftest import DEV_NODES, environment

RECORDED = Path(__file__).with_name("recorded") / "dev.json.gz"


def record(file: Path = RECORDED) -> None:
    """Bring dev up and write its state, and Google's side of it."""
    with ControlPlane(nodes=DEV_NODES) as cluster, tempfile.TemporaryDirectory() as folder:
        made = environment(Path(folder), cluster, "dev")
        made.engine.up()
        content = {
            "state": made.engine.export(),
            "google": json.loads((Path(folder) / "gcp.json").read_text()),
            # What encrypts the state's secrets.
            "salt": (made.project / "stacks" / "Pulumi.dev.yaml").read_text().split("encryptionsalt: ")[1].split()[0],
        }
    file.parent.mkdir(exist_ok=True)
    # No time in it: the same content is the same file.
    file.write_bytes(gzip.compress(json.dumps(content, sort_keys=True).encode(), mtime=0))


if __name__ == "__main__":
    record()
    print(f"written: {RECORDED}", file=sys.stderr)
