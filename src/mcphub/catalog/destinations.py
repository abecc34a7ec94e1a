"""Egress destinations and readable paths of a sandbox: their grammar.

A destination is `host` (TLS on 443), `*.host`, `host:port`, `ip:port` or `[ip6]:port`. Pure checks;
`spawn` enforces them.
"""

import contextlib
import ipaddress
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from mcphub.errors import InvalidInput

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_LONGEST_HOST = 253
# scheme, host and port; without the user's name and password, which are in front of an `@`
_URL = re.compile(
    r"\b([a-zA-Z][a-zA-Z0-9+.-]{1,20})://(?:[^\s/@]{0,300}@)?([\w.-]{1,255})(?::(\d{1,5}))?(?![^\s/?#,\"'])"
)
_PORTS = {
    "http": "80", "postgres": "5432", "postgresql": "5432", "mysql": "3306", "mariadb": "3306",
    "mongodb": "27017", "redis": "6379", "rediss": "6379", "bolt": "7687", "neo4j": "7687", "amqp": "5672",
}  # fmt: skip
_NEVER_READABLE = ("/proc", "/sys", "/dev", "/run", "/var/run")


def named_in(texts: Iterable[str]) -> list[str]:
    """Return the destinations that URLs in `texts` name, each once, in the one form of egress entries."""
    found: dict[str, None] = {}
    for text in texts:
        for scheme, host, port in _URL.findall(text):
            usual = _PORTS.get(scheme.lower(), "")
            entry = f"{host}:{port or usual}" if port or usual else host
            if usual or port or scheme.lower() == "https":
                with contextlib.suppress(InvalidInput):
                    found[destination(entry.removesuffix(":443"))] = None
    return list(found)


def destination(entry: str) -> str:
    """Return an egress entry in its one form (lower case).

    Raises:
        InvalidInput: It is none, with what to write instead.
    """
    text = entry.strip().lower()
    if "://" in text or "/" in text:
        host = text.split("://")[-1].split("/")[0].rpartition("@")[2]
        raise InvalidInput(
            "An egress entry is a host, not a URL.",
            hint=f'Write "{host}".' if _HOST.match(host) else 'Write "host" or "host:port".',
        )
    if text.startswith("*."):
        if ":" in text or "." not in text[2:]:
            raise InvalidInput(
                "A wildcard stands for the names below one registered domain.",
                hint='Write "*.example.com", without a port.',
            )
        return f"*.{_host(text[2:])}"
    if "*" in text:
        raise InvalidInput(
            '"*" stands only at the beginning, before a dot.',
            hint='Write "*.example.com"; there is no entry for every host.',
        )
    host, port = _split(text)
    if port is not None:
        return f"{host}:{port}"
    if _is_ip(host):
        raise InvalidInput("An IP address needs a port.", hint=f'Write "{host}:443".')
    return host


def redirected(entry: str) -> str:
    """Return the left side of a `redirect` in its one form: `host:port`, or `*:port` for every host.

    Raises:
        InvalidInput: It is none.
    """
    host, _, port = entry.strip().partition(":")
    return f"*:{_port(port)}" if host == "*" else forward(entry)


def forward(entry: str) -> str:
    """Return a `host:port` of `redirect` in its one form.

    Raises:
        InvalidInput: It is none.
    """
    host, port = _split(entry.strip().lower())
    if port is None:
        raise InvalidInput("A redirect needs a port on both sides.", hint='Write "host:port".')
    return f"{host}:{port}"


def _split(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or not _is_ip(inner):
            raise InvalidInput("It is no IPv6 address.", hint='Write "[2001:db8::1]:443".')
        return f"[{inner}]", _port(rest[1:]) if rest.startswith(":") else None
    if text.count(":") > 1:
        raise InvalidInput("An IPv6 address stands in brackets.", hint='Write "[::1]:443".')
    host, colon, port = text.partition(":")
    return (host if _is_ip(host) else _host(host)), _port(port) if colon else None


def _host(text: str) -> str:
    if len(text) > _LONGEST_HOST or not _HOST.match(text):
        raise InvalidInput(
            "It is no host name.", hint='Write "api.example.com" or "db.example.com:5432".'
        )
    return text


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise InvalidInput("The port is a number from 1 to 65535.", hint='Write "host:port".')
    return int(text)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def readable_path(entry: str, hub_dir: PurePosixPath | None) -> str:
    """Return a `readable` path in its one form.

    Raises:
        InvalidInput: It is relative, or would show the hub's own files or the host's processes.
    """
    path = PurePosixPath(entry)
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidInput('A readable path is absolute and has no "..".')
    if path == PurePosixPath("/") or any(path.is_relative_to(p) for p in _NEVER_READABLE):
        raise InvalidInput(
            "This path would open the host itself to the server (rule R11).",
            hint="Name the one directory that it needs.",
        )
    if hub_dir is not None and _touches(path, hub_dir):
        raise InvalidInput(
            "This path would show the hub's own files to the server (rule R11).",
            hint="Move what the server reads out of the hub's directory.",
        )
    return str(path)


def _touches(path: PurePosixPath, hub_dir: PurePosixPath) -> bool:
    private = [hub_dir / name for name in ("keys", "homes", "run", "hub.db", "mcphub.toml")]
    return hub_dir.is_relative_to(path) or any(path.is_relative_to(p) for p in private)
