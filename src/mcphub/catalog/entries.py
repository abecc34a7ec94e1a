"""The shape of one server in `mcp_settings.json`: keys, types and bounds. No meaning yet.

Untrusted text enters here, so this is pydantic; `catalog.settings_file` turns entries into
`ServerSpec`s. Problems are told without the text of any value.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcphub.catalog.problems import Problem, json_path

_SHAPE = ConfigDict(extra="forbid", strict=True, frozen=True)

Kind = Literal["stdio", "http", "sse", "streamable-http", "streamableHttp", "streamable_http"]
Text = Annotated[str, Field(max_length=65_536)]


class SandboxEntry(BaseModel):
    """The `sandbox` object; `egress` left out is not the same as an empty list."""

    model_config = _SHAPE

    egress: list[Text] | None = None
    redirect: dict[str, Text] = {}
    readable: list[Text] = []
    memory_mb: int = Field(default=512, alias="memoryMb", ge=16, le=1_048_576)
    pids: int = Field(default=128, ge=4, le=32_768)
    cpu: float = Field(default=1.0, ge=0.05, le=1024)
    files: int = Field(default=1024, ge=32, le=1_048_576)
    tmp_mb: int = Field(default=64, alias="tmpMb", ge=1, le=65_536)
    home_mb: int = Field(default=2048, alias="homeMb", ge=1, le=16_777_216)
    idle_s: float = Field(default=600.0, alias="idleSeconds", ge=1, le=604_800)
    when_idle: Literal["stop", "pause"] = Field(default="stop", alias="whenIdle")
    start: Literal["auto", "plain"] = "auto"
    own_package: bool = Field(default=False, alias="ownPackage")


class ToolsEntry(BaseModel):
    """The `tools` object: shell patterns."""

    model_config = _SHAPE

    allow: list[Text] = []
    deny: list[Text] = []


class UserContextEntry(BaseModel):
    """The `userContext` object: how a server that knows its user is told who that is."""

    model_config = _SHAPE

    send: Literal["auto", "always", "never"] = "auto"
    audience: Annotated[str, Field(max_length=1024)] = ""
    subject: Literal["pairwise", "global"] = "pairwise"
    groups: bool | list[Text] = False
    permissions: dict[str, list[Text]] = {}
    encrypt_to: dict[str, Text] | None = Field(default=None, alias="encryptTo")


class OAuthEntry(BaseModel):
    """The `oauth` object: each user connects an own account. Empty, the server says how."""

    model_config = _SHAPE

    client_id: Annotated[str, Field(max_length=2048)] = Field(default="", alias="clientId")
    client_secret: Text = Field(default="", alias="clientSecret")
    scopes: Annotated[list[str], Field(max_length=64)] = []
    issuer: Annotated[str, Field(max_length=2048)] = ""
    private_hosts: Annotated[list[str], Field(max_length=64)] = Field([], alias="privateHosts")


class ServerEntry(BaseModel):
    """One server as written."""

    model_config = _SHAPE

    title: Annotated[str, Field(max_length=200)] = ""
    type: Kind | None = None
    transport: Kind | None = None
    command: Text = ""
    args: list[Text] = []
    env: dict[str, Text] = {}
    files: dict[str, Text] = {}
    cwd: Text = ""
    url: Text = ""
    era: Literal["legacy", "modern"] | None = None
    roots: bool = False
    headers: dict[str, Text] = {}
    enabled: bool | None = None
    disabled: bool | None = None
    risk: Literal["critical", "high", "medium", "low"] | None = Field(None, alias="riskLevel")
    requires_user_isolation: bool = Field(default=False, alias="requiresUserIsolation")
    user_aware: bool = Field(default=False, alias="userAware")
    user_context: UserContextEntry | None = Field(default=None, alias="userContext")
    credential_slots: list[Text] = Field(default=[], alias="credentialSlots")
    oauth: OAuthEntry | None = None
    isolation: Literal["builtin", "user", "session", "shared"] | None = None
    admin_only: bool = Field(default=False, alias="adminOnly")
    groups: list[Annotated[str, Field(min_length=1, max_length=128)]] = []
    tools: ToolsEntry = ToolsEntry()
    sandbox: SandboxEntry = SandboxEntry()
    timeout_s: float | None = Field(default=None, alias="timeoutSeconds", gt=0, le=86_400)


_SHAPES: Mapping[str, type[BaseModel]] = {
    "tools": ToolsEntry,
    "sandbox": SandboxEntry,
    "userContext": UserContextEntry,
    "oauth": OAuthEntry,
}

_OF_CLIENTS: Mapping[str, str] = {
    "autoApprove": 'It is a setting of the client. To limit tools write "tools": {"allow": [...]}.',
    "alwaysAllow": 'It is a setting of the client. To limit tools write "tools": {"allow": [...]}.',
    "disabledTools": 'Write "tools": {"deny": [...]}.',
    "includeTools": 'Write "tools": {"allow": [...]}.',
    "excludeTools": 'Write "tools": {"deny": [...]}.',
    "timeout": 'Write "timeoutSeconds".',
    "envFile": 'Write the variables into "env"; ${NAME} takes them from the hub\'s environment.',
    "dev": "It is a setting of the editor; remove it.",
    "gallery": "It is a setting of the editor; remove it.",
}


def keys_of(shape: type[BaseModel]) -> list[str]:
    """Return the keys that may be written for this shape."""
    return [info.alias or name for name, info in shape.model_fields.items()]


def unknown_key_hint(key: str, known: list[str]) -> str:
    """Return the sentence that leads from an unknown key to the one that was meant."""
    if key in _OF_CLIENTS:
        return _OF_CLIENTS[key]
    folded = {name.replace("_", "").lower(): name for name in known}
    near = get_close_matches(key.replace("_", "").replace("-", "").lower(), folded, n=1, cutoff=0.6)
    if near:
        return f'Did you mean "{folded[near[0]]}"?'
    return f"Known keys: {', '.join(sorted(known))}."


def server_entry(file: str, root: str, name: str, raw: Any) -> ServerEntry | list[Problem]:
    """Return the checked entry, or everything that is wrong with its shape."""
    if not isinstance(raw, dict):
        return [
            Problem(file, json_path(root, name), "A server is an object.", 'Write "name": {…}.')
        ]
    try:
        return ServerEntry.model_validate(raw)
    except ValidationError as error:
        return [_problem(file, (root, name), dict(found)) for found in error.errors()]


def _problem(file: str, where: tuple[str | int, ...], found: dict[str, Any]) -> Problem:
    loc: tuple[str | int, ...] = found["loc"]
    key, kind = loc[-1], found["type"]
    path = json_path(*where, *(part for part in loc if part != "[key]"))
    if kind == "extra_forbidden":
        shape = _SHAPES.get(str(loc[0]), ServerEntry) if len(loc) > 1 else ServerEntry
        hint = unknown_key_hint(str(key), keys_of(shape))
        return Problem(file, path, f'The key "{str(key)[:80]}" is unknown.', hint)
    message = f"{found['msg'].replace('Input should', 'It should')}."
    hint = "Put the value into quotes." if kind == "string_type" else ""
    return Problem(file, path, message, hint)
