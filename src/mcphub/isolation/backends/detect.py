"""Which backends a launch line names: database URLs, `…_HOST` groups of variables, kubeconfig files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

POSTGRES: Final = "PostgreSQL"
MARIADB: Final = "MariaDB"
REDIS: Final = "Redis"
_SCHEMES: Final = {
    "postgres": POSTGRES,
    "postgresql": POSTGRES,
    "mysql": MARIADB,
    "mariadb": MARIADB,
    "redis": REDIS,
}
_PORTS: Final = {POSTGRES: 5432, MARIADB: 3306, REDIS: 6379}
_REFUSED: Final = re.compile(
    r"ECONNREFUSED|connection refused|connect call failed|cannot connect|can't connect|errno 111",
    re.IGNORECASE,
)
_AT_PORT: Final = re.compile(r"[\w.\])][\"']?(?::|,?\s+port\s+)(5432|3306|6379)\b")
_SPOKEN_OF: Final = (
    (re.compile(r"postgres", re.IGNORECASE), POSTGRES),
    (re.compile(r"mysql|mariadb", re.IGNORECASE), MARIADB),
    (re.compile(r"redis", re.IGNORECASE), REDIS),
)
_MAIL: Final = re.compile(r"imap|smtp|mail", re.IGNORECASE)
_URL: Final = re.compile(r"([a-z][a-z0-9]*)(?:\+\w+)?://[^\s'\"]+")
_HOST: Final = re.compile(r"(?P<prefix>\w*?)_?HOST(?:NAME)?")
_PREFIXES: Final = (
    ("MYSQL", MARIADB),
    ("MARIADB", MARIADB),
    ("POSTGRES", POSTGRES),
    ("PG", POSTGRES),
    ("REDIS", REDIS),
)


@dataclass(frozen=True, slots=True)
class Need:
    """A database as a launch line names it."""

    kind: str
    host: str
    port: int
    user: str = ""
    password: str = ""
    database: str = ""


def databases(args: Sequence[str], env: Mapping[str, str]) -> list[Need]:
    """Return the databases that a launch line names, each once."""
    found: dict[tuple[str, int], Need] = {}
    for text in (*args, *env.values()):
        for match in _URL.finditer(text):
            need = _of_url(match[1], match[0])
            if need is not None:
                found.setdefault((need.host, need.port), need)
    for name, host in env.items():
        match = _HOST.fullmatch(name)
        kind = _kind_of(match["prefix"]) if match else None
        if match and kind is not None and host:
            need = _of_group(match["prefix"], kind, host, env)
            found.setdefault((need.host, need.port), need)
    return list(found.values())


def missed(texts: Iterable[str]) -> list[str]:
    """Return the kinds of database that texts say nobody answers as, each once: by port, else by name."""
    ports = {port: kind for kind, port in _PORTS.items()}
    found: list[str] = []
    for text in texts:
        if _REFUSED.search(text):
            by_port = [ports[int(port)] for port in _AT_PORT.findall(text)]
            by_name = [kind for name, kind in _SPOKEN_OF if name.search(text)]
            found += by_port or by_name
    return list(dict.fromkeys(found))


def usual(kind: str, password: str) -> Need:
    """Return a database of a kind where such ones are, for a server that is told by its tools where."""
    return Need(kind, "127.0.0.1", _PORTS[kind], "app", password, "app")


def is_usual(port: int) -> bool:
    """Tell whether databases are mostly at this port."""
    return port in _PORTS.values()


def speaks_mail(args: Iterable[str], env: Mapping[str, str]) -> bool:
    """Tell whether a launch line has to do with mail servers."""
    return any(map(_MAIL.search, (*args, *env, *env.values())))


def access(need: Need) -> dict[str, str]:
    """Return how a database is reached, under the names that tools which connect to one ask for it by."""
    scheme = next(scheme for scheme, kind in _SCHEMES.items() if kind == need.kind)
    login = (
        f"{quote(need.user, safe='')}:{quote(need.password, safe='')}@"
        if need.user or need.password
        else ""
    )
    url = f"{scheme}://{login}{need.host}:{need.port}/{need.database}"
    given = {
        "host": need.host, "hostname": need.host, "port": str(need.port), "user": need.user,
        "username": need.user, "password": need.password, "database": need.database,
        "connection_string": url, "connection_url": url, "database_url": url, "dsn": url,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value}


def endpoints(args: Sequence[str], env: Mapping[str, str]) -> list[tuple[str, int]]:
    """Return (host, port) of the web addresses with a port of their own that a launch line names."""
    found: list[tuple[str, int]] = []
    for text in (*args, *env.values()):
        for match in _URL.finditer(text):
            if match[1] in {"http", "https", "ws", "wss"}:
                try:
                    parts = urlsplit(match[0])
                    port = parts.port
                except ValueError:
                    continue
                if parts.hostname and port is not None:
                    found.append((parts.hostname, port))
    return list(dict.fromkeys(found))


def kubeconfigs(args: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Return the paths of kubeconfig files that a launch line names."""
    found = [value for name, value in env.items() if name.upper().startswith("KUBECONFIG")]
    for before, word in zip(("", *args), args, strict=False):
        if before == "--kubeconfig":
            found.append(word)
        elif word.startswith("--kubeconfig="):
            found.append(word.partition("=")[2])
    return list(dict.fromkeys(found))


def _of_url(scheme: str, url: str) -> Need | None:
    kind = _SCHEMES.get(scheme)
    if kind is None:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[kind]
    except ValueError:
        return None
    return Need(
        kind,
        parts.hostname or "127.0.0.1",
        port,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        parts.path.strip("/"),
    )


def _kind_of(prefix: str) -> str | None:
    return next((kind for word, kind in _PREFIXES if word in prefix.upper()), None)


def _of_group(prefix: str, kind: str, host: str, env: Mapping[str, str]) -> Need:
    def member(*names: str) -> str:
        for name in names:
            for joined in (f"{prefix}_{name}", f"{prefix}{name}"):
                if env.get(joined):
                    return env[joined]
        return ""

    port = member("PORT")
    return Need(
        kind,
        host,
        int(port) if port.isdigit() else _PORTS[kind],
        member("USER", "USERNAME"),
        member("PASSWORD", "PASS", "PWD"),
        member("DATABASE", "DB", "DBNAME", "NAME"),
    )
