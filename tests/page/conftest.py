"""A gateway over a real Triton with a model of each task, in two versions, and a browser."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from modelport.contract import Task
from modelport.objects import ObjectStore
from tests.page import tiny_tasks
from tests.page.reader import Reader, chromium
from tests.serving import tiny_release as tiny
from tests.serving.conftest import Gateway, Stand, Starter, stand
from tests.serving.waiting import until
from tools.browser import HOW, find_browser

__all__ = ["stand"]


@dataclass
class Site:
    """A gateway and what it serves."""

    gateway: Gateway
    versions: dict[Task, tuple[str, str]]
    """Digests by task: the one that was active before, and the active one."""
    temporary: Path
    """The gateway's folder for temporary files."""

    @property
    def url(self) -> str:
        return f"{self.gateway.url}/ui/"

    @staticmethod
    def model(task: Task) -> str:
        return f"page_{task.value}"


NOT_READY = "page_none"
"""A model whose release cannot be had."""


@pytest.fixture(scope="session")
def site(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    temporary = folder / "temporary"
    temporary.mkdir()
    starter = Starter(stand, folder)
    store = stand.store
    versions = {task: _published(store, task) for task in Task}
    names = {task: Site.model(task) for task in Task}
    try:
        # Long grace: what was active before can still be asked for.
        agent = starter.agent(*names.values(), NOT_READY, grace=3600)
        for number in range(2):
            agent.want({**{names[task]: versions[task][number] for task in Task}, NOT_READY: "0" * 64})
            for task in Task:
                agent.serving(names[task], versions[task][number])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(temporary))
            gateway = starter.gateway(agent, max_megabytes=1)
        until(lambda: gateway.get("/readyz").json()["models"] == sorted(names.values()), "the gateway to be ready")
        yield Site(gateway, versions, temporary)
    finally:
        starter.close()


def _published(store: ObjectStore, task: Task) -> tuple[str, str]:
    model, digests = Site.model(task), list[str]()
    for second in (True, False):
        if task is Task.SEGMENT:
            files = tiny.release_files(model, threshold=0.25 if second else 0.5)
            manifest = tiny.manifest(model, files)
        else:
            manifest, files = tiny_tasks.release(model, task, second=second)
        for path, data in {**files, "manifest.json": manifest.to_bytes()}.items():
            store.put(f"releases/{manifest.digest}/{path}", data)
        digests.append(manifest.digest)
    return digests[0], digests[1]


# A module's, not the session's: Playwright keeps an event loop running in this thread, under which no other test can
# have one of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    program = find_browser(os.environ)
    if program is None:
        pytest.skip(f"there is no Chromium: {HOW}")
    with chromium(program) as running:
        yield running.new_context()


@pytest.fixture
def reader(browser: BrowserContext, site: Site, request: pytest.FixtureRequest) -> Iterator[Reader]:
    """A tab, on a screen of the size that a test's parameter says.

    Whatever is done in it: nothing leaves the gateway, of Gradio only files are asked for, and the key goes nowhere but
    into the API's header, and is gone with the tab.
    """
    key = site.gateway.key
    reader = Reader.at(browser, site.url, *getattr(request, "param", ()))
    try:
        yield reader
        assert reader.errors == []
        assert key not in reader.kept()
        for each in reader.requests:
            if each.url.startswith(("data:", f"blob:{site.gateway.url}/")):
                continue
            path = each.url.removeprefix(site.gateway.url)
            assert path.startswith(("/ui/", "/v1/")), f"{each.url} is not the gateway's"
            assert key not in each.url
            if path.startswith("/ui/"):
                assert each.method == "GET"
                assert key not in str(each.headers)
    finally:
        reader.page.close()
