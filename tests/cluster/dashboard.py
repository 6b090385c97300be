"""Stands for the dashboards of Ray clusters, which do not run: tells KubeRay's operator how each job has ended.

Run as ``python dashboard.py SOCKET STATUS_FILE``. What the API server would send to a pod it sends to SOCKET instead,
as HTTP CONNECT (made for control planes that are not in their pods' network); what goes to a dashboard's port is
answered here, everything else is refused. The answer for every job is the status in STATUS_FILE.
"""

import json
import socketserver
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

DASHBOARD_PORT = 8265
_JOBS = "/api/jobs/"


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, socket: str, status_file: Path) -> None:
        super().__init__(socket, _Handler)
        self.status_file = status_file


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        if self.path.rpartition(":")[2] == str(DASHBOARD_PORT):
            self.send_response(HTTPStatus.OK)
            self.end_headers()
        else:
            self.send_error(HTTPStatus.BAD_GATEWAY, "nothing runs inside of pods here")

    def do_GET(self) -> None:
        if not self.path.startswith(_JOBS) or "/" in self.path.removeprefix(_JOBS):
            self._answer(HTTPStatus.NOT_FOUND, {})
            return
        job = self.path.removeprefix(_JOBS)
        status = cast("_Server", self.server).status_file.read_text().strip()
        now = int(time.time() * 1000)
        self._answer(
            HTTPStatus.OK,
            {
                "job_id": "01000000",
                "submission_id": job,
                "status": status,
                "message": "Nothing has run: this answer is the test's.",
                "start_time": now - 1000,
                "end_time": now,
            },
        )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(HTTPStatus.OK, {"stopped": True} if self.path.endswith("/stop") else {"job_id": "01000000"})

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "api-server"  # a Unix socket's clients have no address


def main(socket: str, status_file: Path) -> None:
    """Answer for ever."""
    _Server(socket, status_file).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
