"""Which servers are forked: what the audit of imports finds, and what the settings change in it."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mcphub.catalog.settings_file import parse_settings
from mcphub.errors import Unavailable
from mcphub.spawn.findings import Finding, Findings
from mcphub.spawn.modes import Prover, mode_of
from mcphub.spawn.spawner import Launch, Warm

AUDIT = (
    "import sys; from mcphub.spawn.zygote import audit;"
    "sys.path.insert(0, sys.argv[1]); audit.verify(sys.argv[2:])"
)
SOURCES = {
    "calm": "import json\nVALUE = 1",
    "reads_one": "import os\nLEVEL = os.environ.get('CALM_LEVEL', 'low')",
    "reads_all": "import os\nCOPY = dict(os.environ)",
    "changes": "import os\nos.environ['CALM'] = '1'",
    "spawns": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
    "threads": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "leaks": "import os\nFD = os.open('/dev/null', os.O_RDONLY)",
    "looks_home": "import os\nFOUND = os.listdir(os.path.expanduser('~'))",
    "writes": "open('/tmp/mcphub-audit-probe', 'w').close()",
    "calls": "import socket\ntry: socket.create_connection(('127.0.0.1', 1), 1)\nexcept OSError: pass",
    "causes": "import spawns",
    "fails": "raise RuntimeError('no')",
}


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """What an audit says of modules, each in a process of its own with a home below /tmp."""
    place = tmp_path_factory.mktemp("modules")
    for name, source in SOURCES.items():
        (place / f"{name}.py").write_text(source + "\n")

    def look(*names: str) -> dict:
        home = Path(f"/tmp/mcphub-audit-{place.name}-{'-'.join(names)}")
        home.mkdir()
        try:
            argv = [sys.executable, "-B", "-c", AUDIT, str(place), *names]
            env = {"HOME": str(home), "PYTHONPATH": ":".join(filter(None, sys.path))}
            done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return json.loads((home / "audit.json").read_text())
        finally:
            (home / "audit.json").unlink(missing_ok=True)
            home.rmdir()

    return look


def test_a_module_without_side_effects_is_fit(audit):
    told = audit("calm")
    assert "calm" in told["modules"]
    assert "calm" not in told["unfit"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("reads_all", "reads the whole environment"),
        ("changes", "changes the environment"),
        ("spawns", "starts a process"),
        ("threads", "starts a thread"),
        ("leaks", "leaves a descriptor open"),
        ("looks_home", "looks into the home"),
        ("writes", "writes a file"),
        ("calls", "calls a network"),
        ("fails", "fails: RuntimeError"),
    ],
)
def test_a_module_whose_import_does_something_is_unfit(audit, name, why):
    assert audit(name)["unfit"][name] == why


def test_a_module_is_unfit_when_one_that_it_imports_is(audit):
    assert audit("causes")["unfit"].keys() >= {"causes", "spawns"}


def test_the_names_that_are_read_are_told(audit):
    told = audit("reads_one")
    assert "reads_one" not in told["unfit"]
    assert "CALM_LEVEL" in told["read"]


@pytest.fixture
def package(tmp_path):
    """A program as the package store has them."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "bin" / "server").write_text("#!python\n")
    return (str(venv / "bin" / "python"), str(venv / "bin" / "server"), "--option")


@pytest.fixture
def findings(tmp_path):
    return Findings(tmp_path / "starts")


def spec(**rest):
    entry = {"command": "uvx", "args": ["server"], **rest}
    loaded = parse_settings(json.dumps({"mcpServers": {"s": entry}}), {})
    return loaded.specs["s"]


FOUND = Finding(
    modules=("json", "calm"),
    read=("CALM_LEVEL",),
    unfit={"git": "starts a process"},
    later=("git", "git.cmd"),
)


def test_nothing_is_decided_before_something_was_found(package, findings):
    assert mode_of(spec(), package, findings) is None


def test_what_was_found_is_kept_for_the_exact_program(package, findings):
    findings.write(package, FOUND)
    assert findings.read(package) == FOUND
    assert findings.read((package[0], package[1] + "2")) is None
    mode = mode_of(spec(), package, findings)
    assert mode is not None and mode.preload is not None
    assert mode.preload.modules == ("json", "calm")
    assert mode.preload.later == ("git", "git.cmd")
    assert "git starts a process" in mode.reason


def test_a_damaged_finding_counts_as_none(package, findings):
    findings.write(package, FOUND)
    (file,) = (place for place in findings._folder.iterdir())
    file.write_text('{"modules": 3')
    assert findings.read(package) is None


def test_the_settings_can_ask_for_plain_starts(package, findings):
    findings.write(package, FOUND)
    mode = mode_of(spec(sandbox={"start": "plain"}), package, findings)
    assert mode is not None
    assert (mode.kind, mode.preload) == ("plain", None)
    assert spec(sandbox={"start": "plain"}).revision != spec().revision


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "LC_ALL", "CALM_LEVEL"])
def test_a_variable_that_counted_before_the_fork_makes_the_start_plain(package, findings, name):
    findings.write(package, FOUND)
    mode = mode_of(spec(env={name: "x"}), package, findings)
    assert mode is not None
    assert mode.kind == "plain"
    assert name in mode.reason


def test_a_credential_in_the_environment_does_not_keep_a_server_from_being_forked(
    package, findings
):
    findings.write(package, FOUND)
    mode = mode_of(spec(env={"TOKEN": "${USER_TOKEN}"}), package, findings)
    assert mode is not None
    assert mode.kind == "zygote"


def test_a_server_with_an_own_copy_of_its_package_is_started_plainly(package, findings):
    findings.write(package, FOUND)
    mode = mode_of(spec(sandbox={"ownPackage": True}), package, findings)
    assert mode is not None
    assert mode.kind == "plain"


@pytest.fixture
def node_package(tmp_path):
    """A Node.js program as the package store has them."""
    script = tmp_path / "npm" / "server@1" / "node_modules" / "server" / "index.js"
    script.parent.mkdir(parents=True)
    script.write_text("")
    (tmp_path / "npm" / "server@1" / "mcphub-package.json").write_text("{}")
    return ("/usr/bin/node", str(script), "stdio")


LOADED = Finding(modules=("import /x/sdk.js",), read=("SDK_LEVEL",))


def test_a_node_server_of_the_store_starts_in_a_warm_worker(node_package, findings):
    assert mode_of(spec(), node_package, findings) is None
    findings.write(node_package, LOADED)
    mode = mode_of(spec(env={"TOKEN": "${USER_TOKEN}"}), node_package, findings)
    assert mode is not None
    assert (mode.kind, mode.preload) == ("warm", Warm("/usr/bin/node", ("import /x/sdk.js",)))
    off = mode_of(spec(sandbox={"start": "plain"}), node_package, findings)
    assert off is not None
    assert off.kind == "plain"


@pytest.mark.parametrize(
    "name", ["NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "UV_THREADPOOL_SIZE", "TZ", "SDK_LEVEL"]
)
def test_a_variable_that_counted_before_the_user_was_known_makes_the_start_plain(
    node_package, findings, name
):
    findings.write(node_package, LOADED)
    mode = mode_of(spec(env={name: "x"}), node_package, findings)
    assert mode is not None
    assert mode.kind == "plain"
    assert name in mode.reason


def test_other_programs_are_started_plainly(findings):
    mode = mode_of(spec(), ("/usr/bin/node", "/srv/server.js"), findings)
    assert mode is not None
    assert mode.kind == "plain"


def test_a_package_that_failed_its_comparison_says_so(package, findings):
    findings.write(package, replace(FOUND, why_plain="It answered differently when it was forked."))
    mode = mode_of(spec(), package, findings)
    assert mode is not None
    assert (mode.kind, mode.reason) == ("plain", "It answered differently when it was forked.")


def test_two_servers_of_one_package_that_are_proven_at_once_do_not_disturb_each_other(tmp_path):
    findings = Findings(tmp_path / "starts")
    argv = ["/x/bin/python", "/x/bin/server"]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(findings.write, argv, Finding(("json",))) for _ in range(200)]:
            done.result()
    assert findings.read(argv) == Finding(("json",), unfit={})
    assert len(list((tmp_path / "starts").iterdir())) == 1


class Overloaded:
    """A spawner of a machine that has no room now; counts who asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def start(self, launch):
        self.asked += 1
        raise Unavailable("no room now")


@pytest.mark.anyio
async def test_what_could_not_be_tried_now_is_not_remembered_as_found(
    node_package, findings, tmp_path
):
    spawner = Overloaded()
    prover = Prover(spawner, findings)  # type: ignore[arg-type]
    launch = Launch("i_1", "neutral", 0, node_package, tmp_path / "home")
    for _ in range(3):  # each start of the server asks
        await prover.prove(launch)
    assert findings.read(node_package) is None
    assert spawner.asked == 1
