"""What a component registers, without an engine: for tests of which resources there are and what is in them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pulumi.runtime import mocks
from pulumi.runtime.stack import wait_for_rpcs


@dataclass(frozen=True)
class Recorded:
    """One registered resource; inputs as they would go to the engine, secrets unwrapped."""

    type: str
    name: str
    inputs: dict[str, Any]

    @property
    def kind(self) -> str:
        """Last part of the type token, such as ``Deployment``."""
        return self.type.rsplit(":", 1)[-1]


class _Recorder(mocks.Mocks):
    def __init__(self) -> None:
        self.resources: list[Recorded] = []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        outputs = dict(args.inputs)
        if args.typ.endswith(":RandomPassword") or args.typ.endswith("/randomPassword:RandomPassword"):
            outputs["result"] = f"generated-for-{args.name}"
        if args.typ.endswith(":RandomId") or args.typ.endswith("/randomId:RandomId"):
            outputs["hex"] = "00112233"
        self.resources.append(Recorded(args.typ, args.name, args.inputs))
        return f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> dict[Any, Any]:
        return {}


def record(build: Callable[[], object]) -> list[Recorded]:
    """Every resource that `build` registers, in order; fails as `build` or one of its outputs fails."""
    recorder = _Recorder()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    mocks.set_mocks(recorder, project="project", stack="stack", preview=False)

    async def run() -> None:
        build()
        await wait_for_rpcs()

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    return recorder.resources
