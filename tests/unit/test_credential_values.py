"""What `mcphub credential set` takes as a value from a file or standard input."""

import io
from pathlib import Path

import pytest

from mcphub.cli.credentials import _text_of, _value
from mcphub.errors import InvalidInput

KEY = "-----BEGIN KEY-----\nMIIEvQ\n-----END KEY-----\n"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"token\n", "token"),
        (b"token\r\n", "token"),
        (b"\xef\xbb\xbftoken", "token"),
        (KEY.encode(), KEY),  # a private key without its last line break is none to some programs
        (KEY.replace("\n", "\r\n").encode(), KEY.replace("\n", "\r\n")),
    ],
)
def test_a_line_stands_alone_and_several_lines_stay_as_they_are(data: bytes, value: str) -> None:
    assert _text_of(io.BytesIO(data)) == value


def test_a_file_that_holds_no_value_is_told_without_what_stands_in_it(tmp_path: Path) -> None:
    for data in (b"", b"\xff\xfe secret-word", b"secret-word" * 5000, b"secret\0word"):
        (tmp_path / "key").write_bytes(data)
        with pytest.raises(InvalidInput) as told:
            _value("mail", "KEY", tmp_path / "key")
        assert "word" not in f"{told.value} {told.value.hint}"
    with pytest.raises(InvalidInput, match="No such file"):
        _value("mail", "KEY", tmp_path / "absent")
