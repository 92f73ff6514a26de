"""Receives notifications: every POST is written to a file as one JSON line.

    python -m lab.webhook <webhook.json: {"host", "port", "file"}>

A line is {"at": unix seconds, "path": ..., "body": the JSON that came, or its text}.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_LARGEST_BODY = 1_000_000
_WRITING = threading.Lock()


def handler_of(file: Path) -> type[BaseHTTPRequestHandler]:
    """Return the request handler that writes to `file`."""

    class Receiver(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > _LARGEST_BODY:
                self.send_error(413, f"A notification may have {_LARGEST_BODY} bytes.")
                return
            text = self.rfile.read(length).decode(errors="replace")
            try:
                body: Any = json.loads(text)
            except ValueError:
                body = text
            line = json.dumps({"at": time.time(), "path": self.path, "body": body})
            with _WRITING, file.open("a") as lines:
                lines.write(line + "\n")
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass  # the file is the log

    return Receiver


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    file = Path(settings["file"])
    file.touch()
    ThreadingHTTPServer((settings["host"], settings["port"]), handler_of(file)).serve_forever()


if __name__ == "__main__":
    main()
