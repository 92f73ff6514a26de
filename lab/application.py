"""One region's little shop application: health endpoints that really ask the region's own database and Redis.

    python -m lab.application <app.json: {"region", "host", "port", "postgres": DSN or null, "redis": URL or null}>

/healthz and /api/v1/status say that the process runs; /readyz, /health, /api/v1/health, /api/v1/health/db and
/api/v1/health/redis answer 200 when what they ask answers, else 503 with the reason.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import redis

_TIMEOUT_SECONDS = 2


@dataclass(frozen=True)
class Shop:
    """The application of one region."""

    region: str
    postgres: str | None
    redis: str | None

    def check_database(self) -> dict[str, Any]:
        """Ask the region's database. Raises what psycopg raises."""
        if self.postgres is None:
            return {"status": "not configured"}
        options = f"-c statement_timeout={_TIMEOUT_SECONDS}s"
        with psycopg.connect(self.postgres, connect_timeout=_TIMEOUT_SECONDS, options=options) as connection:
            row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        return {"status": "ok", "role": "standby" if row and row[0] else "primary"}

    def check_redis(self) -> dict[str, Any]:
        """Ask the region's Redis. Raises what redis-py raises."""
        if self.redis is None:
            return {"status": "not configured"}
        client = redis.Redis.from_url(
            self.redis, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
        )
        try:
            client.ping()
        finally:
            client.close()
        return {"status": "ok"}

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the JSON of one path."""
        match path.split("?")[0].rstrip("/"):
            case "/healthz" | "/api/v1/status":
                return 200, {"status": "ok", "region": self.region}
            case "/api/v1/health/db":
                return self._ask({"database": self.check_database})
            case "/api/v1/health/redis":
                return self._ask({"redis": self.check_redis})
            case "/readyz" | "/health" | "/api/v1/health":
                return self._ask({"database": self.check_database, "redis": self.check_redis})
            case _:
                return 404, {"error": f"There is nothing at {path}."}

    def _ask(self, checks: dict[str, Callable[[], dict[str, Any]]]) -> tuple[int, dict[str, Any]]:
        results: dict[str, Any] = {}
        healthy = True
        started = time.monotonic()
        for name, check in checks.items():
            try:
                results[name] = check()
            except (psycopg.Error, redis.RedisError, OSError) as error:
                healthy = False
                results[name] = {"status": "down", "reason": str(error).strip().splitlines()[0] if str(error) else ""}
        body = {
            "status": "ok" if healthy else "unhealthy",
            "region": self.region,
            "seconds": round(time.monotonic() - started, 3),
            "checks": results,
        }
        return (200 if healthy else 503), body


def handler_of(shop: Shop) -> type[BaseHTTPRequestHandler]:
    """Return the request handler of `shop`."""

    class Endpoint(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            status, body = shop.answer(self.path)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass  # probes come every second

    return Endpoint


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    shop = Shop(settings["region"], settings["postgres"], settings["redis"])
    ThreadingHTTPServer((settings["host"], settings["port"]), handler_of(shop)).serve_forever()


if __name__ == "__main__":
    main()
