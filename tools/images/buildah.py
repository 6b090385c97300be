"""buildah with a storage of its own: nothing of the user's is touched, and what runs ends with who started it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.cache import logged

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""The machine's, which may know an authority of its own before the package index."""

# Killed with the process that started them, with mounts that nobody else sees and that end with them.
ALONE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private")

_PULL_SECONDS = 300


class Buildah:
    """Builds with chroot isolation: as root, without a daemon, also inside a container."""

    def __init__(self, storage: Path, state: Path, log: Path) -> None:
        """Use a storage.

        Args:
            storage: images and layers, kept.
            state: an empty folder for what does not outlive the process.
            log: what the commands print is appended.
        """
        self._storage, self._run = storage, state / "run"
        self._command = [*ALONE, "buildah", "--root", str(storage), "--runroot", str(self._run)]
        self._environment = {**os.environ, "TMPDIR": str(state)}
        self._log = log

    def run(self, *arguments: str, what: str) -> None:
        """Run a command of buildah.

        Raises:
            BuildError: it fails; with the last lines of the log.
        """
        self._logged([*self._command, *arguments], what)

    def _logged(self, command: Sequence[str], what: str) -> None:
        logged(command, self._log, cwd=Path("/"), environment=self._environment, what=what)

    def asks(self, *arguments: str, seconds: float = 60) -> str | None:
        """What a command of buildah prints; None where it fails."""
        with self._log.open("a") as log:
            try:
                done = subprocess.run(
                    [*self._command, *arguments],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    check=False,
                    timeout=seconds,
                    cwd="/",
                )
            except subprocess.TimeoutExpired:
                return None
        return done.stdout.strip() if done.returncode == 0 else None

    def has(self, tag: str) -> bool:
        """Whether an image is in the storage."""
        return self.asks("inspect", "--type", "image", "--format", "{{.FromImage}}", tag) is not None

    def pull(self, published: str) -> bool:
        """Whether a registry gave an image."""
        return self.asks("pull", "--quiet", published, seconds=_PULL_SECONDS) is not None

    def build(
        self,
        context: Path,
        dockerfile: str,
        tag: str,
        *,
        arguments: Mapping[str, str],
        packages: str = "",
        apt_sources: str = "",
    ) -> None:
        """Build a Dockerfile; what earlier builds made of the same is taken.

        Args:
            context: folder that it may copy from.
            dockerfile: its path there.
            tag: what the image is called in the storage.
            arguments: build arguments.
            packages: shell assignments for pip and uv, which are seen by the steps that ask for them and kept nowhere.
            apt_sources: lines for apt, on top of what the base has; not kept either.

        Raises:
            BuildError: it fails.
        """
        with tempfile.TemporaryDirectory(prefix="secrets-", dir=context.parent) as name:
            options = ["--layers", "--isolation=chroot", "--network=host", "--pull-never", "--force-rm"]
            if Path(CERTIFICATES).is_file():
                options += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
            if packages:
                (Path(name) / "packages").write_text(packages)
                options += ["--secret", f"id=packages,src={name}/packages"]
            if apt_sources:
                (Path(name) / "sources.list").write_text(apt_sources)
                options += ["--volume", f"{name}/sources.list:/etc/apt/sources.list:ro"]
            for key, value in arguments.items():
                options += ["--build-arg", f"{key}={value}"]
            self.run(
                "build", *options, "--file", str(context / dockerfile), "--tag", tag, str(context), what=f"image {tag}"
            )

    def export(self, tag: str, layout: Path) -> None:
        """Write an image into a folder in OCI's layout, uncompressed; blobs that are there already stay as they are.

        Raises:
            BuildError: it cannot be written.
        """
        driver = self.asks("info", "--format", "{{.store.GraphDriverName}}")
        source = f"containers-storage:[{driver}@{self._storage}+{self._run}]{tag}"
        # buildah's own push compresses whatever it is told, which takes longer than the build.
        options = ["--quiet", "--dest-oci-accept-uncompressed-layers"]
        self._logged([*ALONE, "skopeo", "--insecure-policy", "copy", *options, source, f"oci:{layout}:image"], tag)

    def keep(self, repository: str, tags: Sequence[str]) -> None:
        """Remove every image of a repository but these, and all layers that nothing needs any more."""
        listed = self.asks("images", "--format", "{{.Name}}:{{.Tag}}") or ""
        for image in listed.splitlines():
            if image.rpartition(":")[0] == repository and image not in tags:
                self.asks("rmi", image)
        self.asks("rmi", "--prune")


@contextmanager
def storage(folder: Path, log: Path) -> Generator[Buildah]:
    """buildah over the storage in a folder; whoever calls this holds the lock on it, for all of one build."""
    state = folder / "state"
    # A build that was killed could not do this.
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    buildah = Buildah(folder / "storage", state, log)
    try:
        buildah.asks("rm", "--all")
        yield buildah
    finally:
        shutil.rmtree(state, ignore_errors=True)
