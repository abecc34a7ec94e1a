"""Packages that no careful publisher would make, in a registry of the tests' own; store and installers are real."""

import contextlib
import hashlib
import json
import os
import subprocess
import threading
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.registry import Published, registry

from mcphub.catalog.packages import Installed, PackageStore
from mcphub.catalog.toolchain import find_toolchain
from mcphub.errors import InvalidInput

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]


def published(name: str, **manifest: object) -> Published:
    """Return an npm package with a program of its name that says it."""
    words = {"name": name, "version": "1.0.0", "bin": {name: "run.js"}, **manifest}
    return Published(words, {"run.js": f"console.log({json.dumps(name)})"})


def wheel(directory: Path, name: str, program: str) -> None:
    """Write a wheel with one program."""
    module = name.replace("-", "_").replace(".", "_")
    info = f"{module}-1.0.0.dist-info"
    files = {
        f"{module}.py": f"def main():\n    print({name!r})\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{program} = {module}:main\n",
    }
    archived(directory, module, files)


def archived(directory: Path, module: str, files: dict[str, str]) -> None:
    """Write files as version 1.0.0 of a wheel."""
    info = f"{module}-1.0.0.dist-info"
    record = "".join(
        f"{path},sha256={urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},"
        f"{len(text)}\n"
        for path, text in files.items()
    )
    with zipfile.ZipFile(directory / f"{module}-1.0.0-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)


@contextlib.contextmanager
def pages(directory: Path) -> Iterator[str]:
    """Serve a directory as a simple index of PyPI."""
    handler = partial(QuietHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


async def installed(root: Path, command: str, *words: str, **environment: str) -> Installed:
    """Resolve and install what a launcher line names."""
    given = {"PATH": os.environ["PATH"], **environment}
    store = PackageStore(root, find_toolchain(os.environ["PATH"]), given)
    requirement = store.requirement(command, words)
    assert requirement is not None
    return await store.install(await store.resolve(requirement), requirement)


def said(found: Installed) -> str:
    return subprocess.run(
        found.argv, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


async def test_a_package_without_its_optional_parts_is_installed_without_them(
    tmp_path: Path,
) -> None:
    inner = published("inner", optionalDependencies={"gone-too": "^2.0.0", "part": "1.0.0"})
    outer = published(
        "outer", dependencies={"inner": "1.0.0"}, optionalDependencies={"gone": "1.0.0"}
    )
    with registry(outer, inner, published("part")) as address:
        found = await installed(tmp_path, "npx", "-y", "outer", npm_config_registry=address)
    assert said(found) == "outer"
    modules = {path.name for path in (found.readable[0] / "node_modules").iterdir()}
    assert {"outer", "inner", "part"} <= modules


@pytest.mark.parametrize(
    ("dependency", "told"),
    [
        ({"gone": "^1.0.0"}, "gone, which it depends on"),
        ({"@scope/gone": "1.0.0"}, "@scope/gone, which it depends on"),
        ({"part": "^2.0.0"}, "part, which it depends on"),
        ({"@scope/part": "^2.0.0 || >=3"}, "@scope/part, which it depends on"),
    ],
)
async def test_a_dependency_that_the_registry_lacks_is_told_as_one(
    tmp_path: Path, dependency: dict[str, str], told: str
) -> None:
    parts = (published("part"), published("@scope/part"))
    with registry(published("outer", dependencies=dependency), *parts) as address:
        with pytest.raises(InvalidInput, match=r"^Resolving npm package outer") as caught:
            await installed(tmp_path, "npx", "-y", "outer", npm_config_registry=address)
        with pytest.raises(InvalidInput) as unknown:
            await installed(tmp_path, "npx", "-y", "outer@7", npm_config_registry=address)
    assert told in caught.value.hint
    assert "outer@VERSION" in caught.value.hint
    assert unknown.value.hint == "Check the package's name and version."


@pytest.mark.parametrize("program", ["names.a-server", "serve.py"])
async def test_a_program_with_a_dot_in_its_name_is_found(tmp_path: Path, program: str) -> None:
    page = tmp_path / "names-a-server"
    page.mkdir()
    wheel(page, "names.a-server", program)
    with pages(tmp_path) as address:
        own = {"UV_DEFAULT_INDEX": address, "UV_NO_CONFIG": "1"}
        found = await installed(tmp_path / "store", "uvx", "names.a-server", **own)
    assert said(found) == "names.a-server"


async def test_a_program_that_a_wheel_brings_as_it_is_is_found(tmp_path: Path) -> None:
    page = tmp_path / "compiled"
    page.mkdir()
    info = "compiled-1.0.0"
    files = {
        "compiled.py": "",
        f"{info}.data/scripts/compiled-server": "#!python\nprint('as it is')\n",
        f"{info}.dist-info/METADATA": "Metadata-Version: 2.1\nName: compiled\nVersion: 1.0.0\n",
        f"{info}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    archived(page, "compiled", files)
    with pages(tmp_path) as address:
        own = {"UV_DEFAULT_INDEX": address, "UV_NO_CONFIG": "1"}
        found = await installed(tmp_path / "store", "uvx", "compiled", **own)
    assert said(found) == "as it is"
