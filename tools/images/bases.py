"""The images that others start from: the published ones where a registry answers, otherwise made of Debian's packages.

Which of the two it is, is found out once per machine; it is asked again when the cache's ``images`` was deleted.
"""

import subprocess
from pathlib import Path

from tools.cache import Say, logged
from tools.debian import need
from tools.images.buildah import ALONE, Buildah
from tools.images.catalog import Base
from tools.images.context import base_digest

_LEFT_OUT = (
    "./dev/*",
    "./etc/apt/sources.list",
    "./proc/*",
    "./sys/*",
    "./tmp/*",
    "./usr/lib/python3*/EXTERNALLY-MANAGED",
    "./usr/share/doc/*",
    "./usr/share/info/*",
    "./usr/share/locale/*",
    "./usr/share/man/*",
    "./var/cache/*/*",
    "./var/lib/apt/lists/*",
    "./var/log/*",
)
"""What the slim published images do not have either, what belongs to this machine, and what forbids pip to install."""

_DOCKERFILE = """\
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["bash"]
"""


def ensure_base(buildah: Buildah, base: Base, folder: Path, log: Path, say: Say) -> str:
    """Tag of a base in buildah's storage; it is fetched or made if it is not there.

    Args:
        buildah: the storage.
        base: what is wanted.
        folder: an empty folder to work in.
        log: what the commands print is appended.
        say: is told.

    Raises:
        BuildError: neither can be done.
        PackagesMissing: debootstrap is not there.
    """
    tag = f"localhost/modelport/base-{base.name}:{base_digest(base)}"
    if buildah.has(tag):
        return tag
    if buildah.pull(base.published):
        buildah.run("tag", base.published, tag, what=f"base {base.name}")
        return tag
    say(f"no registry gives {base.published}: making its like of Debian's packages")
    need("debootstrap")
    rootfs, context = folder / "rootfs", folder / "context"
    context.mkdir()
    include = [f"--include={','.join(base.packages)}"] if base.packages else []
    mirror = debian_mirror()
    _run(["debootstrap", "--variant=minbase", *include, base.suite, str(rootfs), *([mirror] if mirror else [])], log)
    for path, target in base.links.items():
        link = rootfs / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    _run(["tar", "--create", f"--file={context / 'rootfs.tar'}", f"--directory={rootfs}", *left_out, "."], log)
    (context / "Dockerfile").write_text(_DOCKERFILE)
    buildah.build(context, "Dockerfile", tag, arguments={})
    return tag


def apt_sources(base: Base) -> str:
    """Where apt finds packages for a base that was made here, which does not say so itself."""
    mirror = debian_mirror()
    if mirror is None:
        return ""
    security = mirror.rstrip("/").removesuffix("/debian") + "/debian-security"
    return f"deb {mirror} {base.suite} main\ndeb {security} {base.suite}-security main\n"


def debian_mirror() -> str | None:
    """The mirror of Debian's packages that this machine uses; None where it names none: debootstrap then knows one."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line for line in listed.split() if line.rstrip("/").endswith("/debian")), None)


def _run(command: list[str], log: Path) -> None:
    # The smallest environment: debootstrap runs programs of the new system with what it is given.
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    logged([*ALONE, *command], log, cwd=Path("/"), environment=environment, what="a base image")
