"""What an administrator is advised from what servers say."""

from pathlib import Path

import pytest

from mcphub.spawn.advice import OWN_PACKAGE, Advice
from mcphub.spawn.instance import Instance


def instance(code: Path | None) -> Instance:
    return Instance("i_1", "u_1", "notes", "", ("s", 1), 600, 0, 0, code=code)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A package's own files in an installation of the store."""
    place = tmp_path / "packages" / "npm" / "notes@1.0.0-abc"
    (place / "node_modules" / "notes").mkdir(parents=True)
    (place / "mcphub-package.json").write_text("{}")
    return place / "node_modules" / "notes"


@pytest.mark.parametrize(
    ("said", "advised"),
    [
        ("EROFS: read-only file system, open '{code}/x.db'", True),
        ("EACCES: permission denied, mkdir '{code}'", True),
        ("PermissionError: [Errno 13] Permission denied: '{code}/log.txt'", True),
        ("ENOENT: no such file or directory, mkdir '{code}/data'", True),
        ("EROFS: read-only file system, open '…/notes@1.0.0-abc/node_modules/notes/x'", True),
        ("ENOENT: no such file or directory, open '{code}/data/x'", False),
        ("EROFS: read-only file system, open '{code}-other/x'", False),
        ("EROFS: read-only file system, open '/usr/share/notes/x'", False),
        ("The service says no.", False),
    ],
)
def test_only_a_refusal_to_write_beside_the_code_is_taken_for_one(
    code: Path, said: str, advised: bool
) -> None:
    advice = Advice()
    text = said.format(code=code).encode()
    assert advice.look(instance(code), text) == (OWN_PACKAGE if advised else "")
    assert advice.all() == ({"notes": OWN_PACKAGE} if advised else {})
    assert advice.look(instance(None), text) == ""


def test_advice_is_dropped_with_the_settings_that_it_was_for(code: Path) -> None:
    advice = Advice()
    advice.look(instance(code), f"EROFS: open '{code}/x'".encode())
    advice.forget("notes")
    assert advice.all() == {}
