"""What the audit of a Node.js server finds in its packages: each case is a package of one file."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mcphub.spawn.warm.finding import CODE, MOST_TEXT, _asked_for

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node.js in PATH")

CALM = {
    "calm": "exports.value = require('path').join('a', 'b')",
    "reads_itself": "require('fs').readFileSync(__filename)",
    "reads_by_url": "require('fs').readFileSync(require('url').pathToFileURL(__filename))",
    "asks_terminal": "exports.colour = require('tty').isatty(1)",
    "opens_streams": "exports.out = process.stdout",
    "wraps_promise": "require('util').promisify(require('fs').readFile)",
}
UNFIT = {
    "reads_all": ("Object.keys(process.env)", "reads the whole environment"),
    "copies": ("exports.copy = { ...process.env }", "reads the whole environment"),
    "changes": ("process.env.CALM = '1'", "changes the environment"),
    "arguments": ("exports.first = process.argv[2]", "reads the arguments"),
    "directory": ("exports.here = process.cwd()", "asks for the working directory"),
    "resolves": ("exports.here = require('path').resolve('x')", "asks for the working directory"),
    "home": ("require('fs').existsSync('/home/u/.config')", "looks into the home"),
    "writes": ("require('fs').writeFileSync('/tmp/never', '')", "writes a file"),
    "opens": ("require('fs').openSync('/never', 'w')", "writes a file"),
    "spawns": ("require('child_process').execFileSync('/bin/true')", "starts a process"),
    "threads": ("new (require('worker_threads').Worker)('0', { eval: true })", "starts a thread"),
    "timer": ("setInterval(() => {}, 1000)", "starts a timer"),
    "calls": ("require('net').connect(1, '127.0.0.1').on('error', () => {})", "calls a network"),
    "names": ("require('dns').lookup('a.test', () => {})", "calls a network"),
    "speaks": ("console.log('hello')", "speaks"),
    "fails": ("throw new RangeError('no')", "fails: RangeError"),
}


@pytest.fixture
def audit(tmp_path):
    """Look at modules in this order, below a root; the home is another directory."""
    root, home = tmp_path / "über root", Path(f"/tmp/mcphub-warm-{tmp_path.name}")
    root.mkdir()
    home.mkdir()

    def look(how: str = "require", suffix: str = "js", **sources: str) -> dict:
        for name, text in sources.items():
            (root / f"{name}.{suffix}").write_text(text + "\n")
        modules = [f"{how} {root / name}.{suffix}" for name in sources]
        done = subprocess.run(
            [NODE, str(CODE / "audit.cjs"), "verify", str(root), *modules],
            env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads((home / "audit.json").read_text())
        told["unfit"] = {Path(name).stem: why for name, why in told["unfit"].items()}
        return told

    yield look
    shutil.rmtree(home)


def test_packages_without_side_effects_are_fit(audit):
    assert audit(**CALM)["unfit"] == {}


def test_a_package_that_does_something_is_unfit_and_its_neighbours_are_not(audit):
    found = audit(**{name: text for name, (text, _) in UNFIT.items()}, calm=CALM["calm"])
    assert found["unfit"] == {name: why for name, (_, why) in UNFIT.items()}


def test_the_names_that_are_read_are_told(audit):
    told = audit(
        one="exports.level = process.env.CALM_LEVEL",
        two="exports.there = 'CALM_FLAG' in process.env",
        three="exports.place = require('os').tmpdir()",
    )
    assert told["unfit"] == {}
    assert {"CALM_LEVEL", "CALM_FLAG", "TMPDIR"} <= set(told["read"])


def test_a_module_that_is_linked_runs_nothing_whatever_it_would_do(audit):
    sources = {name: text for name, (text, _) in UNFIT.items()}
    assert audit("link", **{name: f"{text}\n" for name, text in sources.items()})["unfit"] == {}
    modern = {
        name: f"import {{ createRequire }} from 'node:module';{text}"
        for name, text in sources.items()
    }
    assert audit("link", "mjs", **modern)["unfit"] == {}


def test_a_module_that_cannot_be_linked_or_asks_whether_it_is_the_main_one_is_unfit(audit):
    found = audit(
        "link",
        "mjs",
        broken="import {",
        lonely="import './nowhere.mjs'",
        main="if (import.meta.main) start()",
        plain="import 'node:fs'; await 0; console.log('hello')",
    )
    assert set(found["unfit"]) == {"broken", "lonely", "main"}
    assert found["unfit"]["broken"] == "fails: SyntaxError"
    assert found["unfit"]["main"] == "asks whether it is the main module"


def test_only_what_the_servers_own_files_ask_of_other_packages_is_loaded_early(tmp_path):
    root = str(tmp_path)
    own, sdk = f"{root}/node_modules/@team/server", f"{root}/node_modules/sdk"
    edges = [
        ["import", "/", f"{own}/index.js"],
        ["import", f"{own}/index.js", f"{own}/lib.js"],
        ["require", f"{own}/index.js", f"{own}/old.cjs"],
        ["import", f"{own}/index.js", f"{own}/values.json"],
        ["import", f"{own}/lib.js", f"{sdk}/mcp.js"],
        ["import", f"{sdk}/mcp.js", f"{root}/node_modules/zod/index.js"],
        ["require", f"{own}/lib.js", f"{root}/node_modules/old/index.cjs"],
        ["require", f"{own}/lib.js", f"{root}/node_modules/native/build.node"],
        ["import", f"{own}/lib.js", f"{sdk}/mcp.js"],
        ["import", f"{own}/lib.js", "/elsewhere/node_modules/x/index.js"],
        ["execute", f"{own}/lib.js", f"{sdk}/other.js"],
    ]
    lines = [json.dumps(edge).encode() for edge in edges]
    assert _asked_for(lines, f"{own}/index.js", root) == [
        f"import {sdk}/mcp.js",
        f"require {root}/node_modules/old/index.cjs",
        f"link {own}/index.js",
        f"link {own}/lib.js",
    ]


def test_no_more_is_loaded_early_than_a_worker_can_be_told(tmp_path):
    root = str(tmp_path)
    own = f"{root}/node_modules/server"
    lines = [
        json.dumps(["import", f"{own}/index.js", f"{own}/{number}{'x' * 200}.js"]).encode()
        for number in range(1000)
    ]
    found = _asked_for(lines, f"{own}/index.js", root)
    assert 50 < len(found) < 1000
    assert found[0] == f"link {own}/0{'x' * 200}.js"
    assert len(json.dumps({"modules": [name.split(" ", 1) for name in found]})) < MOST_TEXT
