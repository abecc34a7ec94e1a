"""Where the vault's keys come from: one contract for all three providers, and the key file's own."""

import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcphub.errors import Conflict, InvalidInput, NotFound
from mcphub.vault.keys import CommandKeys, EnvironmentKeys, FileKeys, KeyProvider, KeyRing

FIRST, SECOND = base64.b64encode(b"1" * 32).decode(), base64.b64encode(b"2" * 32).decode()
Make = Callable[[str], KeyProvider]


@pytest.fixture(params=["file", "environment", "command"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Make a provider whose source holds a text."""

    def make(text: str) -> KeyProvider:
        if request.param == "environment":
            return EnvironmentKeys(text)
        path = tmp_path / "vault.keys"
        path.touch(mode=0o600)
        path.write_text(text)
        return FileKeys(path) if request.param == "file" else CommandKeys(["cat", str(path)])

    return make


def test_the_first_key_seals_and_all_open(provider: Make) -> None:
    ring = KeyRing.load(provider(f"new:{FIRST}\n\nold:{SECOND}\n"))
    assert ring.sealing.id == "new"
    for key_id, material in (("new", b"1" * 32), ("old", b"2" * 32)):
        key = ring.opening(key_id)
        assert key is not None
        assert key.material == material
    assert ring.opening("other") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "k",
        "k:",
        f"k:{FIRST[:-8]}",
        f"k:{FIRST}AAAA",
        f"k:!{FIRST}",
        f":{FIRST}",
        f"K 1:{FIRST}",
        f"k:{FIRST}\nk:{SECOND}",
        f"k:{FIRST}\nbroken",
        "é" * 10,
        f"k:{FIRST}\n" * 4000,
    ],
)
def test_what_is_no_list_of_keys_is_refused_without_repeating_it(provider: Make, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        KeyRing.load(provider(text))
    for part in (FIRST[:10], SECOND[:10], "broken"):
        assert part not in str(caught.value)


def test_a_ring_does_not_show_its_keys(provider: Make) -> None:
    source = provider(f"new:{FIRST}\nold:{SECOND}\n")
    ring = KeyRing.load(source)
    shown = f"{ring!r} {ring.sealing!r} {source!r} {source.keys()!r}"
    assert repr(ring) == "KeyRing(new, old)"
    assert FIRST not in shown
    assert "1111" not in shown


def test_a_source_that_did_not_change_has_the_same_fingerprint(provider: Make) -> None:
    source = provider(f"new:{FIRST}")
    assert source.fingerprint() == source.fingerprint()


def test_a_key_file_is_made_private_at_the_first_start_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "vault.keys"
    made = KeyRing.load(FileKeys(path)).sealing
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    again = KeyRing.load(FileKeys(path)).sealing
    assert (again.id, again.material) == (made.id, made.material)
    assert [each.name for each in path.parent.iterdir()] == ["vault.keys"]
    assert KeyRing.load(FileKeys(tmp_path / "other")).sealing.material != made.material


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "vault.keys"
    FileKeys(path).keys()
    path.chmod(mode)
    with pytest.raises(InvalidInput, match="other accounts"):
        FileKeys(path).keys()


def test_rotation_seals_with_a_new_key_and_keeps_the_old_until_it_is_retired(
    tmp_path: Path,
) -> None:
    keys = FileKeys(tmp_path / "vault.keys")
    ring = KeyRing.load(keys)
    old = ring.sealing
    new = keys.rotate()
    ring.refresh()
    assert ring.sealing.id == new != old.id
    assert ring.opening(old.id) == old
    with pytest.raises(Conflict):
        keys.retire(new)
    with pytest.raises(NotFound):
        keys.retire("other")
    keys.retire(old.id)
    ring.refresh()
    assert ring.opening(old.id) is None
    assert (tmp_path / "vault.keys").stat().st_mode & 0o777 == 0o600


def test_a_ring_keeps_its_keys_when_the_file_becomes_unusable(tmp_path: Path) -> None:
    path = tmp_path / "vault.keys"
    ring = KeyRing.load(FileKeys(path))
    path.write_text("nothing")
    with pytest.raises(InvalidInput):
        ring.refresh()
    assert len(ring.sealing.material) == 32


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["false"], "CalledProcessError"),
        (["/nowhere/program"], "FileNotFoundError"),
        ([], "IndexError"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "TimeoutExpired"),
    ],
)
def test_a_key_command_that_fails_says_so(argv: list[str], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        CommandKeys(argv, timeout_s=0.5).keys()


def test_what_a_failing_key_command_printed_is_not_repeated() -> None:
    program = f"import sys; print('k:{FIRST}'); print('k:{FIRST}', file=sys.stderr); sys.exit(1)"
    with pytest.raises(InvalidInput) as caught:
        CommandKeys([sys.executable, "-c", program]).keys()
    assert caught.value.__suppress_context__
    assert FIRST not in str(caught.value)


def test_a_key_command_is_not_a_shell_line() -> None:
    with pytest.raises(InvalidInput, match="no key in line 1"):
        CommandKeys(["echo", f"; echo k:{FIRST}"]).keys()


def test_an_environment_value_may_hold_several_keys_in_one_line() -> None:
    ring = KeyRing.load(EnvironmentKeys(f"new:{FIRST}, old:{SECOND}"))
    assert repr(ring) == "KeyRing(new, old)"


def test_what_a_crash_left_beside_the_file_goes_with_the_next_change(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "vault.keys")
    (old,) = keys.keys()
    killed = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from mcphub.vault.keys import FileKeys\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "FileKeys(Path(sys.argv[1])).rotate()\n"
    )
    argv = [sys.executable, "-c", killed, str(tmp_path / "vault.keys")]
    assert subprocess.run(argv, check=False).returncode == -9
    assert keys.keys() == (old,)
    assert len(list(tmp_path.iterdir())) == 2
    new = keys.rotate()
    keys.retire(old.id)
    assert [path.name for path in tmp_path.iterdir()] == ["vault.keys"]
    (left,) = keys.keys()
    assert left.id == new
