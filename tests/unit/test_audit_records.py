"""What a request record may hold, without a database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.audit.records import ALIKE, OWN, RequestRecord, alike, neutral, own, session_tag


@given(st.text(), st.integers(min_value=0, max_value=50))
def test_a_neutral_text_is_short_and_holds_nothing_that_acts(text: str, length: int) -> None:
    made = neutral(text, length)
    assert len(made) == len(text[:length])
    assert "\x00" not in made
    assert not set(made) & set("\x1b\r\n\u202e\u2028\x9b")
    assert made.encode().decode() == made
    assert neutral(made, length) == made


@pytest.mark.parametrize("text", ["git__status", "größe", "王", "a b"])
def test_what_people_write_stays(text: str) -> None:
    assert neutral(text, 128) == text


def test_a_row_is_bounded_whatever_a_client_sends() -> None:
    record = RequestRecord(
        "r_1", 1.0, "u_a", "s", "tools/call\n", name="x\x1b[2J" * 99, client="c" * 999,
        error_code=10**30, bytes_in=-(10**30), duration_ms=-1.0, trace_id="t" * 99,
    )  # fmt: skip
    row = dict(zip((*OWN, *ALIKE), (*own(record), *alike(record)), strict=True))
    assert row["method"] == "tools/call\ufffd"
    assert row["name"].startswith("x\ufffd[2J")
    assert (len(row["name"]), len(row["client"]), len(row["trace_id"])) == (128, 128, 64)
    assert (row["error_code"], row["bytes_in"]) == (2**63 - 1, -(2**63) + 1)
    assert row["duration_ms"] == 0.0


def test_a_session_is_known_by_part_of_its_hash_only() -> None:
    assert session_tag("a" * 43) != session_tag("b" * 43)
    assert len(session_tag("a" * 43)) == 8
    assert session_tag("a" * 43) not in "a" * 43
