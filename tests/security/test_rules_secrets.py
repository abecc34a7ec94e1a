"""No default secret, private files, and nothing of a client's in a log (rules R17 and R24)."""

import ast
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import structlog
from tests.interaction.clients import MODERN, plain, request

from mcphub.catalog.live import LiveSettings
from mcphub.cli.logs import log_to_stderr
from mcphub.errors import InvalidInput
from mcphub.ground import replaceable
from mcphub.testing.hub import serving_hub

MCPHUB = str(Path(sys.executable).parent / "mcphub")
SOURCE = Path(__file__).parents[2] / "src" / "mcphub"
SAID = "hunter2-canary-of-anna-5521"
STORED = "stored-value-of-anna-9917"
SERVERS = {"mcpServers": {"plain": plain(env={"TOKEN": "${USER_TOKEN}"})}}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Served:
    """A hub as its administrator runs it: `mcphub serve` in an own process, with its stderr."""

    def __init__(self, directory: Path, *users: str) -> None:
        self.directory, self.log = directory, directory.parent / "log"
        kept = {
            name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ
        }
        self.env = kept | {"MCPHUB_DIR": str(directory), "HOME": str(directory.parent)}
        self.admin = self.ask("init")["key"]
        (directory / "mcp_settings.json").write_text(json.dumps(SERVERS))
        self.keys = {}
        for name in users:
            self.ask("user", "add", name)
            self.keys[name] = self.ask("key", "create", name)["key"]

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MCPHUB, *words], input=stdin, env=self.env, capture_output=True, text=True, timeout=120, check=False
        )  # fmt: skip

    def ask(self, *words: str, stdin: str = ""):
        done = self.run(*words, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self) -> str:
        ready = self.directory.parent / "ready.json"
        words = [MCPHUB, "serve", "--port", "0", "--ready-file", str(ready)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, env=self.env, stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return json.loads(ready.read_text())["url"]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    hub = Served(tmp_path_factory.mktemp("served") / "hub", "anna", "ben")
    hub.ask("credential", "set", "plain", "TOKEN", "--user", "anna", stdin=STORED)
    yield hub, hub.start()
    hub.stop()


def test_every_installation_makes_its_own_keys(tmp_path: Path) -> None:
    made = [Served(tmp_path / name / "hub") for name in ("one", "two")]
    for read in (
        lambda hub: (hub.directory / "keys" / "vault.keys").read_text().rpartition(":")[2],
        lambda hub: hub.admin,
    ):
        assert read(made[0]) != read(made[1])


def test_everything_that_a_hub_writes_is_its_accounts_alone(served: tuple[Served, str]) -> None:
    hub, _ = served
    for path in hub.directory.rglob("*"):
        below = path.relative_to(hub.directory)
        if below.parts[0] in {"packages", "homes"} or path.is_symlink():
            continue  # packages are for every instance to read; homes belong to their users
        if below.parts[:2] in {("run", "etc"), ("run", "slots")} or "probe-home" in below.parts:
            continue  # what sandboxes are made of: no secrets
        assert not mode(path) & 0o077, (below, oct(mode(path)))
    assert mode(hub.directory) == 0o700  # and this alone keeps everybody out
    assert mode(hub.directory / "run" / "hub.sock") == 0o600


async def asked(
    served: tuple[Served, str], user: str, *messages: dict, **headers: str
) -> list[httpx2.Response]:
    hub, url = served
    base = {
        "Authorization": f"Bearer {hub.keys[user]}",
        "Accept": "application/json, text/event-stream",
    }
    async with httpx2.AsyncClient(headers=base | headers, timeout=60) as http:
        opening = {
            "protocolVersion": "2025-11-25",
            "clientInfo": {"name": NASTY, "version": "\x1b]0;owned\x07"},
        }
        first = await http.post(f"{url}/mcp/plain", json=request("initialize", opening))
        http.headers["Mcp-Session-Id"] = first.headers["mcp-session-id"]
        return [await http.post(f"{url}/mcp/plain", json=message) for message in messages]


NASTY = f"\x1b[2J\x1b[31mFAKE\r\n2026-01-01 [info] user=root \u202e\u2028 {SAID}"
FORGED = "2026-01-01 [info]"


@pytest.mark.anyio
async def test_what_a_client_says_never_forges_or_steers_a_log(served: tuple[Served, str]) -> None:
    hub, url = served
    big = "A" * 1_000_000 + "\x1b[31m"
    messages = [
        request("tools/call", {"name": NASTY, "arguments": {"password": SAID}}),
        request("tools/call", {"name": big}),
        request(NASTY), request(big[:60_000]),
        request("resources/read", {"uri": f"x://{SAID}/{NASTY}"}),
        request("prompts/get", {"name": NASTY}),
        request("tools/call", {"name": "echo", "arguments": {"text": SAID}}),
        request("tools/call", {"name": "crash", "arguments": {}}),
    ]  # fmt: skip
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "User-Agent": "\\x1b[31m" + SAID}
    for user in ("anna", "ben"):
        await asked(served, user, *messages, **trace)
    async with httpx2.AsyncClient(timeout=60) as http:
        for path in (f"/mcp/{SAID}%1b%5b31m%0aFAKE", f"/{SAID}", f"/mcp/x?key={SAID}"):
            for name in ("anna", "ben"):
                headers = {"Authorization": f"Bearer {hub.keys[name]}"}
                await http.post(url + path, json=request("ping"), headers=headers)
        wrong = {
            "Authorization": f"Bearer {hub.keys['anna'][:-1]}x",
            "MCP-Protocol-Version": MODERN,
        }
        await http.post(f"{url}/mcp/plain", json=request("ping"), headers=wrong)
    time.sleep(1.2)  # noqa: ASYNC251  the recorder writes every half second
    log = hub.log.read_bytes()
    assert b"\x1b" not in log and b"\r" not in log and SAID.encode() not in log
    assert STORED.encode() not in log
    assert all(len(line) < 5_000 for line in log.splitlines())
    assert not any(line.lstrip().startswith(FORGED.encode()) for line in log.splitlines())
    for key in hub.keys.values():
        assert key.encode() not in log and key[12:].encode() not in log


def test_a_log_on_a_terminal_shows_nothing_that_acts(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        log_to_stderr("info")
        long = "x" * 1_000_000
        structlog.get_logger().info("egress.refused", to=NASTY, why="\x1b]0;owned\x07", more=long)
    finally:
        structlog.configure(**before)
    shown = capsys.readouterr().err
    assert "egress.refused" in shown and shown.count("\n") == 1 and len(shown) < 10_000
    assert not [char for char in shown.rstrip("\n") if ord(char) < 32 or char in "\x9b\u202e\u2028"]


@pytest.mark.anyio
async def test_the_records_are_short_harmless_and_without_values(
    served: tuple[Served, str],
) -> None:
    hub, _ = served
    for user in ("anna", "ben"):
        await asked(
            served, user, request("tools/call", {"name": NASTY}), request("tools/call", {"name": "A" * 100_000})
        )  # fmt: skip
    time.sleep(1.2)  # noqa: ASYNC251  the recorder writes every half second
    shown = [
        hub.run("requests", "--limit", "1000").stdout,
        hub.run("requests", "--json", "--limit", "1000").stdout,
    ]
    shown.append(hub.run("requests", "stats").stdout)
    assert len(json.loads(shown[1])) >= 6
    for text in shown:
        bad = [
            char for char in text if (ord(char) < 32 and char != "\n") or char in "\x7f\u202e\u2028"
        ]
        assert not bad
        assert not any(line.lstrip().startswith(FORGED) for line in text.splitlines())
    for record in json.loads(shown[1]):
        assert (
            len(record["name"]) <= 128
            and len(record["client"]) <= 128
            and len(record["method"]) <= 64
        )
        assert all("arguments" not in key for key in record)


def test_no_file_of_the_hub_holds_a_value_or_a_key(served: tuple[Served, str]) -> None:
    hub, _ = served
    for file in hub.directory.rglob("*"):
        if file.is_file() and "packages" not in file.parts:
            data = file.read_bytes()
            assert STORED.encode() not in data, file
            assert not [key for key in (*hub.keys.values(), hub.admin) if key.encode() in data], (
                file
            )


@pytest.mark.anyio
async def test_a_hub_refuses_a_key_file_that_others_can_read(tmp_path: Path) -> None:
    users = {"anna": [], "ben": []}
    async with serving_hub(tmp_path / "hub", {}, users, environ=dict(os.environ)):
        pass
    key = tmp_path / "hub" / "keys" / "vault.keys"
    for wrong in (0o640, 0o604, 0o660):
        key.chmod(wrong)
        with pytest.raises(InvalidInput, match="read by other accounts"):
            async with serving_hub(tmp_path / "hub", {}, users, environ=dict(os.environ)):
                pass


@pytest.mark.anyio
async def test_a_hub_refuses_settings_that_other_accounts_can_change(tmp_path: Path) -> None:
    directory = tmp_path / "hub"

    async def starts() -> None:
        async with serving_hub(directory, {}, {}, environ=dict(os.environ)):
            pass

    await starts()
    for wrong in (0o770, 0o707, 0o1777):
        directory.chmod(wrong)
        with pytest.raises(InvalidInput, match="write into the hub's directory"):
            await starts()
    file = directory / "mcp_settings.json"
    for reached, mode in ((0o755, 0o664), (0o711, 0o602)):
        directory.chmod(reached)
        file.chmod(mode)
        with pytest.raises(InvalidInput, match="may change mcp_settings"):
            await starts()
    directory.chmod(0o700)
    await starts()


@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another account")
async def test_a_hub_refuses_what_belongs_to_another_account(tmp_path: Path) -> None:
    """Who owns the directory or the file says what a root hub executes, whatever their modes are."""
    directory, other = tmp_path / "hub", 65534

    async def starts() -> None:
        async with serving_hub(directory, {}, {}, environ=dict(os.environ)):
            pass

    await starts()
    os.chown(directory, other, other)
    with pytest.raises(InvalidInput, match="belongs to another account"):
        await starts()
    os.chown(directory, 0, 0)
    for name in ("mcp_settings.json", "mcphub.toml"):
        (directory / name).touch()
        os.chown(directory / name, other, other)
        with pytest.raises(InvalidInput, match=f"may change {name}"):
            await starts()
        os.chown(directory / name, 0, 0)
    new = tmp_path / "new"
    new.mkdir()
    os.chown(new, other, other)
    with pytest.raises(InvalidInput, match="belongs to another account"):
        async with serving_hub(new, {}, {}, environ=dict(os.environ)):
            pass
    assert {file.name for file in new.iterdir()} == {"mcp_settings.json"}  # it is the test's


@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another account")
async def test_a_file_of_another_account_never_comes_into_force(tmp_path: Path) -> None:
    """As when the directory above is another account's, which puts an own one in the hub's place."""
    file, theirs = tmp_path / "mcp_settings.json", tmp_path / "theirs.json"
    file.write_text('{"mcpServers": {}}')
    live = LiveSettings(file, {})
    theirs.write_text(json.dumps({"mcpServers": {"mine": plain()}}))
    os.chown(theirs, 65534, 65534)
    theirs.replace(file)
    assert not await live.refresh() and not live.current.specs
    assert live.error is not None and "another account" in live.error.problems[0].message


def test_a_directory_that_others_can_replace_is_told(tmp_path: Path) -> None:
    hub = tmp_path / "above" / "hub"
    hub.mkdir(parents=True)
    assert replaceable(hub) is None
    link = tmp_path / "link"
    link.symlink_to(hub.parent)
    for mode, told in ((0o777, hub.parent), (0o775, hub.parent), (0o1777, None), (0o755, None)):
        hub.parent.chmod(mode)
        assert replaceable(hub) == replaceable(link / "hub") == told


LIKE_A_SECRET = re.compile(
    r"(?i)(password|passwd|secret|api_?key|token|credential|signing|private_?key)"
)
NO_SECRETS = {"placeholder", "[redacted]", "token", "secret"}  # the last two: classes of leaks


def named_constants(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Every string that is given to something with a name: assignments, defaults, keyword arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            yield from _text(node.arg, node.value)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _text(ast.unparse(target), node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield from _text(ast.unparse(node.target), node.value)
        elif isinstance(node, ast.arguments):
            named = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
            for arg, value in [
                *zip(named, node.defaults, strict=True),
                *zip(node.kwonlyargs, node.kw_defaults, strict=True),
            ]:
                if value is not None:
                    yield from _text(arg.arg, value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Secret"):
            for value in node.args:
                yield from _text("Secret", value)


def _text(name: str, value: ast.expr) -> Iterator[tuple[str, str, int]]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str | bytes):
        given = value.value if isinstance(value.value, str) else value.value.decode("latin-1")
        yield name, given, value.lineno


def test_no_secret_is_written_in_the_source() -> None:
    """A value that could open something: named like a secret, one word, not a header's or a variable's name."""
    found = []
    for file in SOURCE.rglob("*.py"):
        if "testing" in file.relative_to(SOURCE).parts:
            continue
        text = file.read_text()
        assert "BEGIN PRIVATE KEY" not in text and "BEGIN RSA" not in text, file
        for name, value, line in named_constants(ast.parse(text)):
            guessable = (
                len(value) >= 4 and not re.search(r"[\s:./$_-]", value) and not value.isupper()
            )
            if LIKE_A_SECRET.search(name) and guessable and value not in NO_SECRETS:
                found.append(f"{file.relative_to(SOURCE)}:{line} {name} = {value!r}")
        found += [
            f"{file.name}: {literal[:16]}"
            for literal in re.findall(
                r"[\"'](?:mcphub_[A-Za-z0-9_-]{43}|(?:ghp_|sk-|xox[bp]-)[A-Za-z0-9_-]{16,})", text
            )
        ]
    assert found == []
