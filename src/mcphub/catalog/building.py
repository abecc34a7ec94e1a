"""From one checked entry to a `ServerSpec`: templates, transport, sandbox, revision, advice.

A `SpecBuilder` collects problems and warnings instead of stopping at the first; a spec whose build
left problems is never used. Texts of values never go into either.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlsplit

from mcphub.catalog.destinations import (
    destination,
    forward,
    named_in,
    readable_path,
    redirected,
)
from mcphub.catalog.entries import SandboxEntry, ServerEntry
from mcphub.catalog.files import MOST, inside_another, place_below_home
from mcphub.catalog.identity import (
    REQUEST_PLACE,
    UserContextSpec,
    problems_of,
    user_context_of,
)
from mcphub.catalog.known import KnownServer, known_date, known_server
from mcphub.catalog.launchers import requirement
from mcphub.catalog.moving import containers
from mcphub.catalog.oauth import OAUTH_PLACE, OAuthSpec, oauth_of
from mcphub.catalog.oauth import problems_of as oauth_problems_of
from mcphub.catalog.problems import Problem, json_path
from mcphub.catalog.spec import FactName, SandboxSpec, ServerSpec, Slot
from mcphub.catalog.templates import Prepared, TemplateError, plain_text, prepare
from mcphub.errors import InvalidInput
from mcphub.policy.model import Isolation, RiskLevel, Transport
from mcphub.secret import OAUTH_SLOT
from mcphub.wire.codes import Dialect

T = TypeVar("T")

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HUB_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "forwarded"}
    | {"host", "keep-alive", "last-event-id", "mcp-method", "mcp-name", "mcp-protocol-version"}
    | {"mcp-session-id", "te", "trailer", "transfer-encoding", "upgrade", "x-forwarded-for"}
    | {"x-forwarded-host", "x-forwarded-proto"}
)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_NOWHERE = Prepared("")


@dataclass(slots=True)
class SpecBuilder:
    """Builds the specs of one file.

    Attributes:
        file: Name of the file, for problems.
        root: `mcpServers` or `servers`.
        operator_env: What `${NAME}` may name.
        hub_dir: The hub's own directory, closed to every server.
        warnings: What is allowed but worth a look, of all servers so far.
    """

    file: str
    root: str
    operator_env: Mapping[str, str]
    hub_dir: PurePosixPath | None = None
    warnings: list[str] = field(default_factory=list)
    _problems: list[Problem] = field(default_factory=list)
    _slots: dict[str, list[str]] = field(default_factory=dict)
    _name: str = ""

    def take_problems(self) -> list[Problem]:
        """Return the problems since the last call."""
        taken, self._problems = self._problems, []
        return taken

    def build(self, name: str, entry: ServerEntry) -> ServerSpec:
        """Return the spec; it counts only when `take_problems` is empty afterwards."""
        self._name, self._slots = name, {}
        self._plain_texts(entry)
        transport = self._transport(entry)
        command = self._command(entry)
        args = tuple(
            self._template(text, "args", index, place=f"args[{index}]").text
            for index, text in enumerate(entry.args)
        )
        known = known_server(self._checked(lambda: requirement(command, args), None, "command"))
        env = {key: self._env(key, text) for key, text in entry.env.items()}
        files = self._files(entry)
        headers = {key: self._header(key, text) for key, text in entry.headers.items()}
        url = self._url(entry)
        cwd = self._cwd(entry)
        sandbox = self._sandbox(entry.sandbox, known)
        user_context = self._identity(name, entry, transport, url)
        oauth = self._oauth(entry, transport, url)
        self._advise(entry, transport, known)
        return ServerSpec(
            name=name,
            title=entry.title or name,
            transport=transport,
            command=command,
            args=args,
            env=MappingProxyType(env),
            url=url,
            headers=MappingProxyType(headers),
            files=MappingProxyType(files),
            cwd=cwd,
            slots=tuple(Slot(slot, tuple(places)) for slot, places in sorted(self._slots.items())),
            risk=None if entry.risk is None else RiskLevel(entry.risk),
            requires_user_isolation=entry.requires_user_isolation,
            user_aware=entry.user_aware,
            user_context=user_context,
            oauth=oauth,
            isolation=None if entry.isolation is None else Isolation(entry.isolation),
            admin_only=entry.admin_only,
            enabled=not entry.disabled if entry.enabled is None else entry.enabled,
            groups=frozenset(entry.groups),
            tools_allow=tuple(entry.tools.allow),
            tools_deny=tuple(entry.tools.deny),
            sandbox=sandbox,
            timeout_s=entry.timeout_s,
            dialect=None if entry.era is None else Dialect(entry.era),
            sse=_is_sse(entry),
            roots=entry.roots,
            revision=_revision(
                transport,
                command,
                args,
                env,
                url,
                headers,
                cwd,
                sandbox,
                [
                    *_protocol(entry),
                    *_told(entry, user_context),
                    *(oauth.content if oauth is not None else ()),
                    *([{"files": sorted(files.items())}] if files else []),
                ],
            ),
        )

    def _identity(
        self, name: str, entry: ServerEntry, transport: Transport, url: str
    ) -> UserContextSpec | None:
        """How the server is told its user, and the slots whose credential goes with each request."""
        for message, hint, where in problems_of(entry, transport, url):
            self._problem(message, hint, *where)
        for slot in entry.credential_slots:
            self._slots.setdefault(slot, []).append(REQUEST_PLACE)
        return user_context_of(name, entry, transport, url)

    def _oauth(self, entry: ServerEntry, transport: Transport, url: str) -> OAuthSpec | None:
        """How users connect their accounts, and the slot of their authorization."""
        for message, hint, where in oauth_problems_of(entry, transport, url):
            self._problem(message, hint, *where)
        oauth = oauth_of(entry, self._operators)
        if oauth is not None:
            self._slots.setdefault(OAUTH_SLOT, []).append(OAUTH_PLACE)
        return oauth

    # ------------------------------------------------------------------------- telling

    def _problem(self, message: str, hint: str, *where: str | int) -> None:
        path = json_path(self.root, self._name, *where)
        self._problems.append(Problem(self.file, path, message, hint))

    def _warn(self, sentence: str) -> None:
        self.warnings.append(f'server "{self._name}": {sentence}')

    def _checked(self, check: Callable[[], T], fallback: T, *where: str | int) -> T:
        try:
            return check()
        except InvalidInput as error:
            self._problem(error.message, error.hint, *where)
            return fallback

    def _plain_texts(self, entry: ServerEntry) -> None:
        """No NUL anywhere; display names and groups are printable."""
        for path in _with_nul(entry.model_dump(by_alias=True)):
            self._problem("A text holds a NUL character.", "Remove it.", *path)
        for index, group in enumerate(entry.groups):
            if not group.isprintable():
                self._problem("A group's name is printable text.", "", "groups", index)
        if not entry.title.isprintable():
            self._problem("A title is printable text on one line.", "", "title")

    # ----------------------------------------------------------------------- templates

    def _template(self, text: str, *where: str | int, place: str = "") -> Prepared:
        """Prepare a text; with a `place`, its slots count as declared there."""
        try:
            prepared = prepare(text, self.operator_env)
        except TemplateError as error:
            self._problem(error.message, error.hint, *where)
            return _NOWHERE
        for slot in prepared.slots:
            if place:
                self._slots.setdefault(slot, []).append(place)
            if place.startswith(("args", "url")):
                self._warn(
                    f"the credential {slot} goes into {place}, where process lists or logs may "
                    f"show it; prefer {'headers' if place == 'url' else 'env'}."
                )
        return prepared

    def _operators(self, text: str, *where: str | int) -> str:
        """Prepare a text in which nothing of a user may stand."""
        prepared = self._template(text, *where)
        if not prepared.is_plain:
            self._problem(
                "Nothing of a user may stand here.",
                "Users' values go into env or headers (rule R12).",
                *where,
            )
            return ""
        return plain_text(prepared)

    # ------------------------------------------------------------------------- the parts

    def _transport(self, entry: ServerEntry) -> Transport:
        written = {kind for kind in (entry.type, entry.transport) if kind is not None}
        kinds = {Transport.STDIO if kind == "stdio" else Transport.HTTP for kind in written}
        if len(kinds) > 1:
            self._problem('"type" and "transport" disagree.', "Remove one.", "type")
        if bool(entry.command) == bool(entry.url):
            both = "Both" if entry.command else "Neither"
            self._problem(
                f'{both} "command" and "url" {"are" if entry.command else "is"} given.',
                'A program has "command", a remote server has "url".',
            )
        found = Transport.HTTP if entry.url else Transport.STDIO
        if kinds and found not in kinds and bool(entry.command) != bool(entry.url):
            wanted = "url" if found is Transport.STDIO else "command"
            self._problem(f'This type needs "{wanted}".', "Correct the type.", "type")
        if "sse" in written and entry.era == "modern":
            self._problem('"sse" is a transport of the legacy era.', 'Remove "era".', "era")
        self._fitting(entry, found)
        return found

    def _fitting(self, entry: ServerEntry, transport: Transport) -> None:
        """Keys that mean nothing for this transport, and contradictions."""
        wrong = ("args", "env", "files", "cwd") if transport is Transport.HTTP else ("headers",)
        for key in wrong:
            if getattr(entry, key):
                self._problem(f'"{key}" means nothing for this transport.', "Remove it.", key)
        if entry.isolation == "builtin":
            self._problem(
                '"builtin" is for code of the hub only.', 'Write "user", or nothing.', "isolation"
            )
        if entry.enabled is not None and entry.disabled is not None:
            self._problem('"enabled" and "disabled" stand together.', "Remove one.", "disabled")

    def _command(self, entry: ServerEntry) -> str:
        command = self._operators(entry.command, "command") if entry.command else ""
        if entry.command and command != command.strip():
            self._problem("The program's name begins or ends with a space.", "", "command")
        elif " " in command and "/" not in command:
            self._problem(
                "The program stands with its arguments (there is no shell).",
                'Put the arguments into "args".',
                "command",
            )
        return command

    def _env(self, key: str, text: str) -> str:
        if not _ENV_NAME.match(key):
            hint = "Use letters, digits and _, not beginning with a digit."
            self._problem("It cannot name an environment variable.", hint, "env", key)
        return self._template(text, "env", key, place=f"env.{key}").text

    def _files(self, entry: ServerEntry) -> dict[str, str]:
        """Return path below the home -> template of each file."""
        made: dict[str, str] = {}
        for key, text in entry.files.items():
            place = self._checked(lambda k=key: place_below_home(k), "", "files", key)
            made[place] = self._template(text, "files", key, place=f"files.{key}").text
        if twice := inside_another(made):
            hint = "One of both has another name."
            self._problem("It lies below another file.", hint, "files", f"~/{twice}")
        if len(made) > MOST:
            self._problem(f"There are more than {MOST} files.", "Lay fewer.", "files")
        return made

    def _header(self, key: str, text: str) -> str:
        if not _HEADER_NAME.match(key):
            self._problem("It cannot name an HTTP header.", "", "headers", key)
        elif key.lower() in _HUB_HEADERS or key.lower().startswith("x-mcphub-"):
            self._problem("The hub sets this header itself.", "Remove it.", "headers", key)
        made = self._template(text, "headers", key, place=f"headers.{key}").text
        if any(ord(char) < 32 and char != "\t" for char in made):
            self._problem("A header's value is one line.", "", "headers", key)
        return made

    def _url(self, entry: ServerEntry) -> str:
        if not entry.url:
            return ""
        made = self._template(entry.url, "url", place="url").text
        try:
            parts = urlsplit(made)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            self._problem("It is no URL.", 'Write "https://host/path".', "url")
            return made
        if made and (parts.scheme not in {"http", "https"} or not host):
            self._problem("It is no HTTP URL.", 'Write "https://host/path".', "url")
        if "@" in parts.netloc:
            self._problem("A URL holds no user or password.", "Put it into headers.", "url")
        if "${" in parts.netloc or "${" in parts.scheme:
            self._problem(
                "Nothing of a user may stand in the host of a URL (rule R20).",
                "Users' values go into headers, the path or the query.",
                "url",
            )
        if parts.scheme == "http" and host not in _LOOPBACK:
            self._warn("its URL is plain http: credentials travel in clear; prefer https.")
        return made

    def _cwd(self, entry: ServerEntry) -> str:
        if not entry.cwd:
            return ""
        prepared = self._template(entry.cwd, "cwd")
        if prepared.slots or FactName.USER_NAME in prepared.facts:
            hint = "${USER_HOME} and ${USER_ID} may stand here (rule R23)."
            self._problem("A credential or a name forms no path.", hint, "cwd")
        return prepared.text

    def _sandbox(self, entry: SandboxEntry, known: KnownServer | None) -> SandboxSpec:
        egress = tuple(
            self._checked(lambda t=text: destination(t), "", "sandbox", "egress", index)
            for index, raw in enumerate(entry.egress or ())
            if (text := self._operators(raw, "sandbox", "egress", index))
        )
        if entry.egress is None and known is not None and known.egress:
            egress = known.egress
            self._warn(
                f"it may reach {', '.join(egress)}, the hosts that {known.package} calls by "
                f'default (as of {known_date()}); set "sandbox": {{"egress": [...]}} to change that.'
            )
        redirect: dict[str, str] = {}
        for key, raw in entry.redirect.items():
            where = ("sandbox", "redirect", key)
            target = self._operators(raw, *where)
            source = self._checked(lambda k=key: redirected(k), "", *where)
            redirect[source] = self._checked(lambda t=target: forward(t), "", *where)
        readable = tuple(
            self._checked(
                lambda t=text: readable_path(t, self.hub_dir), "", "sandbox", "readable", index
            )
            for index, raw in enumerate(entry.readable)
            if (text := self._operators(raw, "sandbox", "readable", index))
        )
        return SandboxSpec(
            egress=egress,
            redirect=MappingProxyType(redirect),
            readable=readable,
            memory_mb=entry.memory_mb,
            pids=entry.pids,
            cpu=entry.cpu,
            files=entry.files,
            tmp_mb=entry.tmp_mb,
            home_mb=entry.home_mb,
            idle_s=entry.idle_s,
            pause=entry.when_idle == "pause",
            start=entry.start,
            own_package=entry.own_package,
        )

    # ------------------------------------------------------------------------- advice

    def _advise(self, entry: ServerEntry, transport: Transport, known: KnownServer | None) -> None:
        if not entry.groups:
            self._warn(
                'it names no groups, so only administrators may use it; "groups": ["everyone"] '
                "opens it to every user."
            )
        if transport is Transport.STDIO:
            self._advise_moved(entry, known)
        if transport is Transport.HTTP and "sandbox" in entry.model_fields_set:
            self._warn('"sandbox" has no effect: an HTTP server runs elsewhere.')
        if known is None:
            return
        if entry.risk is None:
            self._warn(
                f'it has no "riskLevel" and counts as critical; "{known.risk}" is suggested for '
                f"{known.package} ({known_date()})."
            )
        if known.files and not entry.files:
            self._warn(
                f"it reads each user's credentials from files; set "
                f'"files": {json.dumps(dict(known.files))}.'
            )
        for key, value in known.env.items():
            if key not in entry.env:
                self._warn(f'set "env": {{"{key}": "{value}"}}, {known.env_reason}.')
        if known.needs_egress and entry.sandbox.egress is None and not entry.sandbox.redirect:
            self._warn(f'it has no network; "sandbox.egress" needs {known.needs_egress}.')

    def _advise_moved(self, entry: ServerEntry, known: KnownServer | None) -> None:
        """Tell what worked where the entry comes from and does not in an instance."""
        if containers(entry.command or ""):
            self._warn(
                "it starts containers, for which an instance has no engine; name its package (npx, uvx), or "
                "the address of the container."
            )
            return
        decided = entry.sandbox.egress is not None or bool(entry.sandbox.redirect)
        if decided or (known is not None and (known.egress or known.needs_egress)):
            return
        named = named_in([*entry.args, *entry.env.values(), *entry.files.values()])
        if named:
            self._warn(
                f"it names {', '.join(named)} and has no network; "
                f'"sandbox": {{"egress": {json.dumps(named)}}} lets it go there.'
            )


def _with_nul(value: object, where: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all texts, keys too, that hold a NUL character."""
    if isinstance(value, str):
        return [where] if "\x00" in value else []
    pairs: list[tuple[str | int, object]] = []
    if isinstance(value, list):
        pairs = list(enumerate(value))
    elif isinstance(value, dict):
        pairs = [(str(key), inner) for key, inner in value.items()]
    found = [path for key, inner in pairs for path in _with_nul(inner, (*where, key))]
    keys = [(*where, key) for key, _ in pairs if isinstance(key, str) and "\x00" in key]
    return found + keys


def _is_sse(entry: ServerEntry) -> bool:
    return "sse" in {entry.type, entry.transport}


def _protocol(entry: ServerEntry) -> list[str]:
    """What differs from the usual in how the server is spoken to."""
    sse, roots = "sse" if _is_sse(entry) else "", "roots" if entry.roots else ""
    return [word for word in (entry.era or "", sse, roots) if word]


def _told(entry: ServerEntry, context: UserContextSpec | None) -> list[object]:
    """What an instance's requests tell of its user, for the digest; nothing where they tell nothing."""
    if context is None and not entry.credential_slots:
        return []
    slots = sorted(entry.credential_slots)
    return [slots, entry.user_aware, *(context.content if context is not None else ())]


def _revision(
    transport: Transport,
    command: str,
    args: tuple[str, ...],
    env: Mapping[str, str],
    url: str,
    headers: Mapping[str, str],
    cwd: str,
    sandbox: SandboxSpec,
    more: list[object],
) -> str:
    """Digest of what a running instance is made of: another digest, another instance."""
    limits = (sandbox.memory_mb, sandbox.pids, sandbox.cpu, sandbox.files, sandbox.tmp_mb)
    limits = (*limits, sandbox.home_mb)
    content = [
        transport.value,
        command,
        args,
        sorted(env.items()),
        url,
        sorted(headers.items()),
        cwd,
        sorted(sandbox.egress),
        sorted(sandbox.redirect.items()),
        sorted(sandbox.readable),
        limits,
        *more,
        *([] if sandbox.start == "auto" else [sandbox.start]),
        *(["ownPackage"] if sandbox.own_package else []),
    ]
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
