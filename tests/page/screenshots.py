"""``python -m tests.page.screenshots TASK=MODEL=IMAGE...``: the pictures of the page in ``docs/images``.

Asks the platform of the connection, as `modelport predict` does, and shows what it says: for example
``segment=polyp_seg=models/polyp_seg/sample/images/a.png``. Without Chromium there are no pictures.
"""

import argparse
import os
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from modelport.connection import Connection
from tests.page.reader import Reader, chromium
from tools.browser import HOW, find_browser

FOLDER = Path(__file__).parents[2] / "docs" / "images"
_LARGEST = 200 * 1024


def take(reader: Reader, key: str, model: str, image: Path, target: Path) -> None:
    """Ask a model about an image, and keep what the page shows as a PNG below 200 KiB."""
    reader.show_models(key)
    expect(reader.status).to_contain_text("ready")
    reader.choose("Model", model)
    reader.give(image.name, image.read_bytes(), "image/jpeg")
    reader.predict()
    reader.overlay()
    # The key's field shows dots; their number is no business of the picture's.
    reader.page.get_by_label("API key").fill("0" * 20)
    reader.page.mouse.move(0, 0)
    target.parent.mkdir(parents=True, exist_ok=True)
    reader.page.screenshot(path=target, full_page=True, animations="disabled")
    with Image.open(target) as taken:
        picture = taken.convert("RGB")
    # A page has few colours, and a photograph on it looks the same in 256.
    for colors in (256, 128, 64):
        picture.quantize(colors).save(target, optimize=True)
        if target.stat().st_size < _LARGEST:
            return
    raise SystemExit(f"{target}: {target.stat().st_size} bytes; take a smaller image")


def main() -> int:
    """Take the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.page.screenshots", description="Pictures of the page.")
    parser.add_argument("what", nargs="+", help="TASK=MODEL=IMAGE, for example segment=polyp_seg=image.jpg")
    parser.add_argument("--to", type=Path, default=FOLDER, help="folder of the pictures")
    options = parser.parse_args()
    program = find_browser(os.environ)
    if program is None:
        print(f"there is no Chromium: {HOW}", file=sys.stderr)
        return 1
    connection = Connection.load()
    with chromium(program) as browser:
        for what in options.what:
            task, model, image = what.split("=", 2)
            reader = Reader.at(browser.new_context(), f"{connection.gateway_url}/ui/", height=700)
            take(reader, connection.gateway_api_key or "", model, Path(image), options.to / f"page-{task}.png")
            print(options.to / f"page-{task}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
