"""The whole life of a model in a real cluster on one machine, step by step, as people would take them.

    make cluster-demo

The real program on the real engine, the real operator, real training, serving and load. What is not real is said in
docs/cluster-on-one-machine.md.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.leftovers import Traces
from tests.cluster.one_node import OneNode
from tests.engine.engine import Changes
from tests.whole.clock import Clock
from tests.whole.site import PROJECT, Load, Site, brought_together
from tests.whole.stack import DATASET, LOAD_S, MODEL, REQUESTS
from tools.images import IMAGES, ensure_layout

MEMORY_GIB = 14
"""Everything together takes less."""
NEARLY = 0.9
"""Of its memory limit no pod takes more."""
NICENESS = -10
"""Of whatever is started here. Like the cluster itself it comes before tests that run beside it."""


@contextmanager
def _first() -> Generator[None]:
    """This process, and what it starts, before others; afterwards it is as it was, for tests that follow in it."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):  # root in a container may not be allowed to
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


@dataclass
class Journey:
    """What was found on the way."""

    clock: Clock
    releases: list[str] = field(default_factory=list[str])
    """Digests, in the order in which they were promoted."""
    told: list[str] = field(default_factory=list[str])
    """What the command of the latest training said, line by line."""
    load: Load | None = None
    before: set[str] = field(default_factory=set[str])
    """What the cluster had beside its namespaces before the stack."""

    def take(self, folder: Path) -> None:
        """Every step, from an empty machine to an empty machine."""
        with self.site(folder) as site:
            self.up(site)
            self.push(site)
            self.release(site, "first")
            self.predict(site)
            self.release(site, "second", "--set", "train.seed=1", promote=False)
            self.change_over(site)
            self.used(site)
            self.unchanged(site)
            self.destroy(site)

    @contextmanager
    def site(self, folder: Path, source: Path = PROJECT, **settings: Any) -> Generator[Site]:
        """The cluster, with its images; gone afterwards.

        Args:
            folder: for everything that is written.
            source: the project that the stack is made from.
            settings: of the stack, by whole key, beside or over `stack.settings`.
        """
        with _first(), self._site(folder, source, **settings) as site:
            yield site

    @contextmanager
    def _site(self, folder: Path, source: Path, **settings: Any) -> Generator[Site]:
        with self.clock.step("images") as said:
            layouts = [ensure_layout(name) for name in IMAGES]
            said.append(f"{len(layouts)}")
        cluster, traces = OneNode(), None
        try:
            with self.clock.step("cluster") as said:
                cluster.start()
                traces = Traces.of(cluster.state)
                for layout in layouts:
                    cluster.import_layout(layout)
                said.append(f"API server at {cluster.url}")
            self.clock.explain = cluster.report
            yield brought_together(folder, cluster, source, **settings)
        finally:
            self.clock.explain = lambda: ""
            with self.clock.step("down") as said:
                said.append(f"peak of memory {cluster.memory() / 2**30:.1f} GiB")
                cluster.stop()
                left = traces.left_after(seconds=30) if traces else []
                assert not left, f"left of the cluster: {left}"

    def up(self, site: Site) -> Changes:
        """`pulumi up`."""
        self.before = site.beside_namespaces()
        with self.clock.step("pulumi up") as said:
            changes = site.up()
            said.append(f"{len(changes.created)} resources")
        return changes

    def push(self, site: Site) -> None:
        """The release manager pushes the dataset."""
        with self.clock.step("data push") as said:
            sample = site.project / "models" / MODEL / "sample"
            said.append(site.manager.connected("data", "push", DATASET, str(sample)).out.splitlines()[0])

    def release(
        self,
        site: Site,
        name: str,
        *options: str,
        promote: bool = True,
        meanwhile: Callable[[Site], None] | None = None,
    ) -> str:
        """The scientist trains, the manager lets it serve; the release's digest. `meanwhile` is done as it trains."""
        with self.clock.step(f"train {name}") as said:
            self.told = site.train(*options, meanwhile=meanwhile).out.splitlines()
            said.append(next(line for line in self.told if line.startswith("best ")))
        digest: str = site.manager.connected("versions", MODEL, "--json").json[0]["digest"]
        with self.clock.step(f"gate {name}") as said:
            said.append(site.manager.connected("gate", MODEL, digest).out.strip().splitlines()[0])
        if promote:
            self.promote(site, digest)
        self.releases.append(digest)
        return digest

    def promote(self, site: Site, digest: str) -> None:
        """The manager promotes; it serves when the gateway says so."""
        with self.clock.step(f"serve {digest[:12]}"):
            site.manager.connected("promote", MODEL, digest, "--why", "the journey")
            site.wait(f"{digest[:12]} to serve", lambda: site.model()["release"] == digest)
            assert site.manager.connected("status", MODEL, "--json").json["aliases"]["champion"] == digest

    def predict(self, site: Site) -> None:
        """Somebody asks with an API key."""
        with self.clock.step("predict") as said:
            answer = site.manager.connected("predict", MODEL, str(site.sample()), "--json").json
            assert answer["release"] == self.releases[0], answer["release"]
            said.append(f"coverage {answer['coverage']:.3f} by release {answer['release'][:12]}")

    def change_over(self, site: Site) -> Load:
        """A second release is promoted and taken back while people go on asking."""
        first, second = self.releases
        with self.clock.step("changeover") as said:
            assert site.answered_differently(first, second), "an answer of the wrong release could not be told"
            job = site.start_load()
            site.wait("the load test to ask", lambda: site.load_is_on(job))
            site.manager.connected("promote", MODEL, second, "--why", "the journey, under load")
            site.wait("the second release to serve", lambda: site.model()["release"] == second)
            site.manager.connected("rollback", MODEL, "--why", "the journey, under load")
            site.wait("the first release to serve again", lambda: site.model()["release"] == first)
            assert site.is_asking(job), "it ended before the rollback"
            self.load = site.end_of_load(job, LOAD_S + 300)
            said.append(f"{self.load.requests} requests, {self.load.failed} failed")
            said.append(f"median {self.load.median_ms} ms, longest {self.load.longest_ms} ms")
            assert self.load.failed == 0, self.load.log
            assert self.load.requests >= REQUESTS, self.load.log
            answered = [self.load.by_release.get(digest[:12], 0) for digest in (first, second)]
            said.append(f"{answered[0]} answered by the first release, {answered[1]} by the second")
            assert min(answered) > 0, self.load.log
            assert sum(answered) == self.load.requests, self.load.log
        return self.load

    def used(self, site: Site) -> None:
        """What each pod asked for, and the most that it used; those of trainings and setups, too, which are gone."""
        with self.clock.step("resources") as said:
            for used in site.pods_used():
                self.clock.say(str(used))
            whole = site.cluster.memory() / 2**30
            said.append(f"peak of the whole {whole:.1f} GiB")
            killed = [used.pod for used in site.pods_used() if used.killed_for_memory]
            assert not killed, f"killed for memory: {killed}"
            tight = [str(used) for used in site.pods_used() if used.peak > NEARLY * (used.asked.memory_limit or 0)]
            assert not tight, "nearly all of its memory, or without a limit:\n" + "\n".join(tight)
            assert whole < MEMORY_GIB

    def unchanged(self, site: Site) -> None:
        """A second preview finds nothing to do."""
        with self.clock.step("second preview"):
            again = site.engine.preview()
            assert again.empty, str(again)

    def destroy(self, site: Site) -> None:
        """`pulumi destroy`; nothing of the stack is left."""
        with self.clock.step("pulumi destroy") as said:
            said.append(f"{len(site.destroy().deleted)} resources")
            # Helm leaves the kinds of a chart: with them would go what others have made of them.
            left = {name for name in site.beside_namespaces() - self.before if not name.endswith(".ray.io")}
            assert not left, left
            assert not site.engine.export()["deployment"].get("resources"), "its state is empty"
