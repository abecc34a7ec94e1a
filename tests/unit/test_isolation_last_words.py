"""What a subject says that does not get ready is told so that a person knows what to do."""

from mcphub.isolation.last_words import unready

_WHY = "The server does not get ready: the server ended."
_USAGE = """Persistent sessions for MCP clients

Usage: console [OPTIONS] <COMMAND>

Commands:
  serve             Run the MCP server over standard input and output
  warmup            Check the runtimes

Options:
  -h, --help        Print help

Examples:
  console serve
  console warmup
  console sandbox -- python
""".splitlines()


def test_a_usage_text_is_told_from_its_start_with_what_to_add():
    failure = unready(_WHY, _USAGE)
    assert failure.message.startswith(
        f"{_WHY} It only told how it is called: Usage: console [OPTIONS]"
    )
    assert "serve Run the MCP server over standard input and output" in failure.message
    assert "launch line" in failure.hint


def test_a_usage_text_after_an_error_is_left_out_for_the_error():
    lines = [*_USAGE, "console: error: the following arguments are required: --db"]
    failure = unready(_WHY, lines)
    assert "the following arguments are required: --db" in failure.message
    assert "It only told" not in failure.message
    assert failure.hint == ""


def test_an_error_before_a_long_usage_text_is_told():
    failure = unready(_WHY, ["error: the following required arguments were not provided:", *_USAGE])
    assert "required arguments were not provided" in failure.message


def test_what_said_nothing_gets_no_last_words():
    failure = unready(_WHY, [])
    assert (failure.message, failure.hint) == (_WHY, "")


def test_a_long_usage_text_is_cut():
    failure = unready(_WHY, ["usage: x", *["y" * 300] * 40])
    assert len(failure.message) < 800
