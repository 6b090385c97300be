"""Somebody who asks the gateway for a prediction five times a second, and notes what came of it.

Run as ``python asker.py URL IMAGE NOTES`` in the cluster's network, with the API key on standard input. A line of JSON
for each request: see `Answer`. It ends by itself after half an hour, which no test takes.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EVERY_S = 0.2
LIMIT_S = 1800.0
_TIMEOUT_S = 5.0
_BOUNDARY = "image-of-the-test"


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    sent: float
    """In seconds since the epoch, as `ended`."""
    ended: float
    status: int
    """0 without an answer."""
    release: str | None
    request: str | None
    """The gateway's own name for it."""


def main(url: str, image: Path, notes: Path) -> None:
    """Ask until the time is up."""
    key = sys.stdin.read().strip()
    name = f'name="image"; filename="{image.name}"'
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {name}\r\nContent-Type: image/jpeg\r\n\r\n"
    body = head.encode() + image.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()
    headers = {"X-API-Key": key, "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + LIMIT_S
    with notes.open("a") as stream:
        while time.monotonic() < end:
            sent = time.time()
            status, said = _ask(opener, urllib.request.Request(url, body, headers))
            answer = Answer(sent, time.time(), status, said.get("release"), said.get("request_id"))
            stream.write(json.dumps(asdict(answer)) + "\n")
            stream.flush()
            time.sleep(max(0.0, sent + EVERY_S - time.time()))


def _ask(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> tuple[int, dict[str, Any]]:
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, {}
    except (OSError, ValueError):
        return 0, {}


def read_answers(notes: Path) -> list[Answer]:
    """What has been noted so far; a line that is still being written is left out."""
    lines = notes.read_text().splitlines(keepends=True) if notes.is_file() else []
    return [Answer(**json.loads(line)) for line in lines if line.endswith("\n")]


def ten_right(answers: Sequence[Answer]) -> bool:
    """Whether the last ten requests were all answered: what was away is back."""
    return [one.status for one in answers[-10:]] == [200] * 10


def outage(answers: Sequence[Answer]) -> tuple[int, float]:
    """Requests that failed, and seconds from the first of them to the right answer after the last one, or the end."""
    failed = [number for number, answer in enumerate(answers) if answer.status != 200]
    if not failed:
        return 0, 0.0
    after = answers[min(failed[-1] + 1, len(answers) - 1)]
    return len(failed), round(after.ended - answers[failed[0]].sent, 1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
