"""Names of servers: `[a-z0-9][a-z0-9-]{0,62}`; display names are free."""

import re

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")

NAME_HINT = (
    'Use a-z, 0-9 and "-", at most 63 characters, beginning with a letter or digit; '
    'any other name goes into "title".'
)


def is_server_name(text: str) -> bool:
    """Return whether `text` can be the name of a server."""
    return _NAME.match(text) is not None


def server_name(text: str) -> str:
    """Return the nearest name of the grammar: `My Server` is `my-server`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "server"
