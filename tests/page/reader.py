"""The page as somebody uses it who reads labels and buttons, in a real Chromium."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, Route, expect, sync_playwright

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
)
_MILLISECONDS = 20_000


@contextmanager
def chromium(program: Path) -> Iterator[Browser]:
    """A browser that talks to nobody on its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Reader:
    """One tab."""

    page: Page
    url: str
    requests: list[Request] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def at(cls, context: BrowserContext, url: str, width: int = 1280, height: int = 900) -> "Reader":
        """Open a gateway's page in a new tab."""
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(_MILLISECONDS)
        reader = cls(page, url)
        page.on("request", lambda request: reader.requests.append(request))
        page.on("pageerror", lambda error: reader.errors.append(str(error)))
        # The first one of all has to wait for Gradio.
        page.goto(url, timeout=3 * _MILLISECONDS)
        page.get_by_label("API key").wait_for()
        return reader

    @property
    def status(self) -> Locator:
        """What the page says on top."""
        return self.page.locator("#mp-status")

    @property
    def details(self) -> Locator:
        """Tables under the overlay."""
        return self.page.locator("#mp-details")

    def show_models(self, key: str) -> None:
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Show models").click()

    def choose(self, label: str, option: str) -> None:
        """Choose what begins with `option`."""
        box = self.page.get_by_label(label, exact=True)
        box.click()
        self.page.get_by_role("option").filter(has_text=option).first.click()
        expect(self.page.get_by_role("option")).to_have_count(0)

    def options(self, label: str) -> list[str]:
        """What can be chosen; nothing is."""
        box = self.page.get_by_label(label, exact=True)
        box.click()
        names = [text.strip().removeprefix("✓").strip() for text in self.page.get_by_role("option").all_inner_texts()]
        box.press("Escape")
        box.blur()
        expect(self.page.get_by_role("option")).to_have_count(0)
        return names

    def unnamed(self) -> list[str]:
        """What a screen reader has no name for, of all that can be operated or looked at."""
        tree = self.page.locator("body").aria_snapshot()
        return re.findall(r"- ((?:button|textbox|combobox|listbox|meter|link|checkbox|slider)\b(?! [\"/]).*)", tree)

    def give(self, name: str, data: bytes, kind: str = "image/png") -> None:
        """Choose a file."""
        file = {"name": name, "mimeType": kind, "buffer": data}
        self.page.get_by_label("Image, JPEG or PNG").set_input_files(file)  # pyright: ignore[reportArgumentType]
        expect(self.page.locator("#mp-name")).to_contain_text(name)

    def drop(self, name: str, data: bytes) -> None:
        """Drag a file onto the page."""
        self.page.locator("#mp-upload .mp-drop").evaluate(
            """(area, [name, data]) => {
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([new Uint8Array(data)], name));
              for (const kind of ["dragenter", "dragover", "drop"])
                area.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
            }""",
            [name, list(data)],
        )
        expect(self.page.locator("#mp-name")).to_contain_text(name)

    def kept(self) -> str:
        """All that the browser keeps of the page beyond the tab."""
        stored = self.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        return f"{stored} {self.page.context.cookies()}"

    def watch_uploads(self) -> None:
        """Keep a copy of what is uploaded from now on, for `uploaded`: the browser's protocol shows no files."""
        self.page.evaluate(
            """() => {
              const own = window.fetch;
              window.fetch = async (url, options) => {
                const file = options?.body?.get("image");
                if (file) window.uploaded = [file.name, Array.from(new Uint8Array(await file.arrayBuffer()))];
                return own(url, options);
              };
            }"""
        )

    def uploaded(self) -> tuple[str, bytes]:
        """Name and content of the last upload."""
        name, data = self.page.evaluate("window.uploaded")
        return name, bytes(data)

    def predict(self) -> Mapping[str, Any]:
        """Press the button; the API's answer to the page."""
        with self.page.expect_response(lambda response: "/predict" in response.url) as waiting:
            self.press()
        answer = waiting.value.json()
        expect(self.page.get_by_role("button", name="Predict")).to_be_enabled()
        return answer

    def press(self) -> None:
        self.page.get_by_role("button", name="Predict").click()

    @contextmanager
    def held(self, urls: str, status: int) -> Iterator[Callable[[], None]]:
        """Hold back requests to such addresses until the function is called; they are then let go, or fail so."""
        waiting: list[Route] = []

        def go_on() -> None:
            assert waiting, "nothing was asked"
            for route in waiting:
                if status == 200:
                    route.continue_()
                else:
                    route.fulfill(status=status, json={"reason": "busy"})

        self.page.route(urls, lambda route: waiting.append(route))
        try:
            yield go_on
        finally:
            self.page.unroute(urls)

    def overlay(self) -> tuple[int, int, str]:
        """Width and height of the overlay as the browser decoded it, and its URL."""
        image = self.page.locator("#mp-overlay img")
        image.wait_for()
        self.page.wait_for_function("document.querySelector('#mp-overlay img').naturalWidth > 0")
        size = image.evaluate("(image) => [image.naturalWidth, image.naturalHeight, image.src]")
        return size[0], size[1], size[2]
