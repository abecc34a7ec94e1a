"""What users may be called: no name that only looks like another one."""

import pytest

from mcphub.errors import InvalidInput
from mcphub.identity.model import checked_user_name


@pytest.mark.parametrize(
    "name",
    [
        "anna", "Anna Müller", "a.b@example.com", "O'Neill-2", "Анна Иванова", "Ελένη", "アンナ ひろ 田中",
        "Tanaka 田中", "김 Anna", "עדי", "أنا", "อันนา", "Nguyễn",
    ],
)  # fmt: skip
def test_names_of_all_languages_are_taken(name: str) -> None:
    assert checked_user_name(name) == name


def test_a_name_is_kept_in_the_composed_form() -> None:
    assert checked_user_name("Mu\u0308ller") == "Müller"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("\u0430nna", "Cyrillic and Latin"),  # the first letter is Cyrillic
        ("ann\u03b1", "Greek and Latin"),
        ("ann\u0561", "Armenian and Latin"),
        ("田中\u0430", "Cjk and Cyrillic"),
        ("\uff41nna", "special forms"),
        ("\U0001d41anna", "special forms"),
        ("an\u200bna", "visible"),
        ("anna\u202e", "visible"),
        ("an\u00adna", "visible"),
        ("anna\u00a0b", "special forms"),
    ],
)
def test_a_name_that_only_looks_like_another_is_refused(name: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as refused:
        checked_user_name(name)
    assert refused.value.hint
