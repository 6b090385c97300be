"""``python -m tools [NAME...] [--list]``."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence

from tools.build import digest, ensure
from tools.cache import cache_folder, say_on_stderr
from tools.catalog import ROOT, TOOLS, BuildError, Tool
from tools.golang import choose_go, wanted_go
from tools.own import own_program


def main(arguments: Sequence[str]) -> int:
    """Build the named tools, or all; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools", description="Build the programs that the tests run.")
    parser.add_argument("name", nargs="*", help=f"what to build, all by default: {', '.join(TOOLS)}")
    parser.add_argument("--list", action="store_true", help="list the tools and where they are; build nothing")
    options = parser.parse_args(arguments)
    names: list[str] = options.name
    unknown = [name for name in names if name not in TOOLS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(TOOLS)}")
    chosen = [TOOLS[name] for name in names or TOOLS]
    try:
        if options.list:
            for line in _listing(chosen):
                print(line)
            return 0
        started = time.monotonic()
        for tool in chosen:
            if not _all_own(tool):
                ensure(tool)
        say_on_stderr(f"tools: {len(chosen)} are there, after {time.monotonic() - started:.0f} s")
    except BuildError as error:
        say_on_stderr(str(error))
        return 1
    return 0


def _all_own(tool: Tool) -> bool:
    """Whether the user has every program of a tool; `gensdk` is of use to the stand-in of Pulumi's Python host only."""
    wanted = tool.offers - {"gensdk"}
    return bool(wanted) and all(own_program(name) for name in wanted)


def _listing(tools: Sequence[Tool]) -> Iterator[str]:
    cache = cache_folder(os.environ)
    go = choose_go(wanted_go(), ROOT.parent / "locks" / "go.txt", cache, say_on_stderr)
    for tool in tools:
        folder = cache / f"{tool.name}-{digest(tool, ROOT, go.version)}"
        state = "your own" if _all_own(tool) else str(folder) if folder.is_dir() else "not built"
        yield f"{tool.name:20} {tool.version() or 'our own':10} {state}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
