"""A registry of npm for packages of the tests' own, on a free port of the loopback."""

import base64
import contextlib
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """A package.

    Attributes:
        manifest: Its package.json, with name and version.
        files: Path -> text of its other files.
    """

    manifest: Mapping[str, Any]
    files: Mapping[str, str]

    def tarball(self) -> bytes:
        """Return it as npm packs it."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz") as archive:
            for name, text in {"package.json": json.dumps(self.manifest), **self.files}.items():
                data = text.encode()
                entry = tarfile.TarInfo(f"package/{name}")
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
        return made.getvalue()


@contextlib.contextmanager
def registry(*packages: Published) -> Iterator[str]:
    """Serve `packages`; yields the address for `npm_config_registry`."""
    pages: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path.replace("%2f", "/"))
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        for package in packages:
            name, version = str(package.manifest["name"]), str(package.manifest["version"])
            data = package.tarball()
            file = f"/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
            integrity = base64.b64encode(hashlib.sha512(data).digest()).decode()
            dist = {"tarball": address + file, "integrity": f"sha512-{integrity}"}
            scripts = package.manifest.get("scripts") or {}
            extra = {"dist": dist, "hasInstallScript": "install" in scripts}
            pages[file] = data
            pages[f"/{name}"] = json.dumps(
                {
                    "name": name,
                    "dist-tags": {"latest": version},
                    "versions": {version: {**package.manifest, **extra}},
                }
            ).encode()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield address + "/"
        finally:
            server.shutdown()
            thread.join()
