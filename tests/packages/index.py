"""An index of packages, as pip asks one: the files of a folder, and the pages of PEP 503 that lead to them."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serve(folder: Path) -> Generator[str]:
    """Serve an index of the wheels and source distributions in a folder; give its address."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".whl", ".gz")}

    class Index(BaseHTTPRequestHandler):
        """Answers with a page of links, or with a file."""

        def do_GET(self) -> None:
            match self.path.strip("/").split("/"):
                case ["simple"]:
                    self._answer(_page({f"{name}/" for name in map(_project, files)}))
                case ["simple", project]:
                    links = {
                        f"/files/{name}#sha256={_digest(files[name])}" for name in files if _project(name) == project
                    }
                    self._answer(_page(links) if links else None)
                case ["files", name]:
                    self._answer(files.get(name), "application/octet-stream")
                case _:
                    self._answer(None)

        def _answer(self, content: bytes | None, kind: str = "text/html") -> None:
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple/"
        server.shutdown()


def _project(file: str) -> str:
    """Return the name that an index has for the distribution in a file."""
    name, _, _ = file.partition("-")  # That of a wheel, and of a source distribution, has no hyphen.
    return re.sub(r"[-_.]+", "-", name).lower()


def _page(links: set[str]) -> bytes:
    lines = [f'<a href="{link}">{link.rstrip("/").rpartition("/")[2].partition("#")[0]}</a>' for link in sorted(links)]
    return "\n".join(["<!doctype html>", *lines]).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
