"""``python -m tools.images [NAME...] [--list]``."""

import argparse
import sys
from collections.abc import Sequence

from tools.cache import say_on_stderr
from tools.catalog import BuildError
from tools.debian import PackagesMissing
from tools.images.archive import image_size
from tools.images.build import describe_size, ensure_layout, layout_of
from tools.images.catalog import IMAGES


def main(arguments: Sequence[str]) -> int:
    """Build the named images, or all; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.images", description="Build images of the test cluster.")
    parser.add_argument("name", nargs="*", help=f"what to build, all by default: {', '.join(IMAGES)}")
    parser.add_argument("--list", action="store_true", help="list the images and where they are; build none")
    options = parser.parse_args(arguments)
    names: list[str] = options.name or list(IMAGES)
    unknown = [name for name in names if name not in IMAGES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(IMAGES)}")
    try:
        for name in names:
            layout = layout_of(IMAGES[name]) if options.list else ensure_layout(name)
            state = f"{describe_size(image_size(layout)):>8}  {layout}" if layout.is_dir() else "not built"
            print(f"{name:17} {IMAGES[name].reference:50} {state}")
    except (BuildError, PackagesMissing) as error:
        say_on_stderr(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
