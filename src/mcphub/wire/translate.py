"""Between the eras: how a request, a result, an error or a question of one looks in the other.

Pure functions on raw members, the only place that knows both forms. What stays of a message that
crosses: everything that belongs to no hop and exists on the other side, unknown members included.
Sources: MCP 2026-07-28 basic, patterns/mrtr, caching, changelog; 2025-11-25 basic/lifecycle,
client/elicitation.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from mcphub.wire import envelope
from mcphub.wire.codes import (
    HEADER_MISMATCH,
    HOP_META,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    LATEST_LEGACY,
    LATEST_MODERN,
    LEGACY_RESOURCE_NOT_FOUND,
    LEGACY_URL_ELICITATION_REQUIRED,
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_SERVER_INFO,
    META_VERSION,
    MISSING_CAPABILITY,
    MODERN_ERRORS,
    UNSUPPORTED_VERSION,
)
from mcphub.wire.envelope import Members, Message
from mcphub.wire.eras import ELICIT, NAMED, NEEDS, encode_header
from mcphub.wire.extensions import TASKS
from mcphub.wire.pieces import Raw, Text, start_of

COMPLETE: Final = "complete"
INPUT_REQUIRED: Final = "input_required"

_CACHEABLE: Final = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)
_RETRY: Final = ("inputResponses", "requestState")
_OPENING_ONLY: Final = ("resultType", "supportedVersions", "ttlMs", "cacheScope", "_meta")
_ELICITATION_SINCE, _URL_SINCE = "2025-06-18", "2025-11-25"
_VERSION: Final = envelope.raw(LATEST_MODERN)
_EMPTY: Members = {}


# ------------------------------------------------------------------ requests


def onward_to_legacy(params: Members, rename: tuple[str, str] | None = None) -> Members:
    """Return what a legacy server gets of a request's params, apart from `_meta`.

    The caller's name for a tool or prompt becomes the server's; what belongs to a retry of the
    modern era goes.
    """
    out = {name: value for name, value in params.items() if name not in _RETRY}
    if rename is not None:
        out[rename[0]] = envelope.raw(rename[1])
    return out


def onward_to_modern(
    params: Members, rename: tuple[str, str] | None = None, *, from_legacy: bool = False
) -> Members:
    """Return what a modern server gets of a request's params, apart from `_meta`.

    Args:
        params: Raw members, of a client of either era; not changed.
        rename: Member and new value.
        from_legacy: The client is of the legacy era: its tasks are other ones and are left out.
    """
    out = dict(params)
    if from_legacy:
        out.pop("task", None)
    if rename is not None:
        out[rename[0]] = envelope.raw(rename[1])
    return out


def for_legacy_server(
    params: Members, *, progress_id: int | None, meta: Members = _EMPTY
) -> Members:
    """Return a request's params as a legacy server wants them.

    Hop-owned `_meta` keys go, unknown ones stay; the progress token becomes the hub's own number
    (rule R2).

    Args:
        params: Raw members, from `onward_to_legacy`; not changed.
        progress_id: Token to ask for progress with, or None for no progress.
        meta: Keys of `_meta` that this hop adds.
    """
    if "_meta" not in params and progress_id is None and not meta:
        return params
    out = dict(params)
    kept = _passed_meta(params) | meta
    if progress_id is not None:
        kept["progressToken"] = msgspec.Raw(b"%d" % progress_id)
    if kept:
        out["_meta"] = envelope.object_raw(kept)
    else:
        out.pop("_meta", None)
    return out


def for_modern_server(
    params: Members,
    *,
    capabilities: bytes,
    client_info: bytes,
    log_level: str = "",
    progress_id: int | None = None,
    meta: Members = _EMPTY,
) -> Members:
    """Return a request's params as a modern server wants them.

    Args:
        params: Raw members, from `onward_to_modern`; not changed.
        capabilities: What the calling client can be asked, raw.
        client_info: The hub's own name, raw.
        log_level: Least severity of the log messages that the caller wants, or "".
        progress_id: Token to ask for progress with, or None for no progress.
        meta: Keys of `_meta` that this hop adds.
    """
    out = dict(params)
    kept = _passed_meta(params) | meta
    kept[META_VERSION] = _VERSION
    kept[META_CLIENT_CAPABILITIES] = msgspec.Raw(capabilities)
    kept[META_CLIENT_INFO] = msgspec.Raw(client_info)
    if log_level:
        kept[META_LOG_LEVEL] = envelope.raw(log_level)
    if progress_id is not None:
        kept["progressToken"] = msgspec.Raw(b"%d" % progress_id)
    out["_meta"] = envelope.object_raw(kept)
    return out


def routing_headers(method: str, params: Members) -> dict[str, str]:
    """Return the headers that a modern HTTP server wants with a request (streamable-http)."""
    headers = {"MCP-Protocol-Version": LATEST_MODERN, "Mcp-Method": encode_header(method)}
    member = NAMED.get(method)
    if member is not None:
        headers["Mcp-Name"] = encode_header(envelope.text(params.get(member)))
    elif method.startswith("tasks/") and "taskId" in params:
        headers["Mcp-Name"] = encode_header(envelope.text(params["taskId"]))
    return headers


def capabilities_for_modern(version: str, capabilities: Members) -> bytes:
    """Return what a legacy client declared as a modern server wants to read it, raw.

    What its revision does not have is left out, and so is what cannot be translated: tasks.
    """
    out: Members = {}
    if "elicitation" in capabilities and version >= _ELICITATION_SINCE:
        modes = envelope.object_of(capabilities["elicitation"])
        known: Members = {}
        if "form" in modes or "url" not in modes:
            known["form"] = modes.get("form", msgspec.Raw(b"{}"))
        if "url" in modes and version >= _URL_SINCE:
            known["url"] = modes["url"]
        if known:
            out["elicitation"] = envelope.object_raw(known)
    for name in ("sampling", "roots", "experimental"):
        if name in capabilities:
            out[name] = capabilities[name]
    extensions = envelope.object_of(capabilities.get("extensions"))
    extensions.pop(TASKS, None)
    if extensions:
        out["extensions"] = envelope.object_raw(extensions)
    return envelope.join(out)


def capabilities_without(capabilities: Members, *, roots: bool, tasks: bool) -> bytes:
    """Return what a modern client declared, raw, without what the server may not use of it.

    Args:
        capabilities: Raw members as declared.
        roots: Whether the server may ask for the client's directories.
        tasks: Whether it may answer with a task.
    """
    out = capabilities
    if not roots and "roots" in out:
        out = {name: value for name, value in out.items() if name != "roots"}
    if not tasks and "extensions" in out:
        extensions = envelope.object_of(out["extensions"])
        extensions.pop(TASKS, None)
        out = out | {"extensions": envelope.object_raw(extensions)}
    return envelope.join(out)


def _passed_meta(params: Members) -> Members:
    return {
        key: value
        for key, value in envelope.object_of(params.get("_meta")).items()
        if key not in HOP_META
    }


# ------------------------------------------------------------------ results and errors


def opening_of(discovered: bytes | Raw) -> bytes:
    """Return a DiscoverResult as an InitializeResult."""
    members = envelope.object_of(discovered)
    info = envelope.object_of(members.get("_meta")).get(META_SERVER_INFO)
    opening: Members = {
        "protocolVersion": envelope.raw(LATEST_LEGACY),
        "capabilities": members.get("capabilities", msgspec.Raw(b"{}")),
        "serverInfo": info or envelope.raw({"name": "unnamed", "version": "0"}),
    }
    return envelope.join(
        opening | {k: v for k, v in members.items() if k not in _OPENING_ONLY and k not in opening}
    )


def result_for_modern(method: str, value: bytes | Raw, server_info: bytes = b"") -> bytes:
    """Return a legacy server's result as a modern client wants it: what is missing is added.

    It is complete whatever it says: another kind is nothing that such a server knows, and would be asked, bound
    and counted by nobody.
    """
    members = envelope.object_of(value)
    if not members and bytes(value).strip() != b"{}":
        return bytes(value)
    return envelope.join(members_for_modern(method, members, server_info))


def members_for_modern(method: str, members: Members, server_info: bytes = b"") -> Members:
    """Return the members of a result as `result_for_modern` does."""
    added: Members = {"resultType": msgspec.Raw(b'"complete"')}
    members.pop("resultType", None)
    if method in _CACHEABLE:
        if "ttlMs" not in members:
            added["ttlMs"] = msgspec.Raw(b"0")
        if "cacheScope" not in members:
            added["cacheScope"] = msgspec.Raw(b'"private"')
    if server_info:
        meta = envelope.object_of(members.get("_meta"))
        meta.setdefault(META_SERVER_INFO, msgspec.Raw(server_info))
        members["_meta"] = envelope.object_raw(meta)
    return added | members


def added_for_modern(server_info: bytes) -> bytes:
    """Return the members that `result_for_modern` adds to a tool's result that has none of them."""
    if not server_info:
        return b'"resultType":"complete"'
    return b'"resultType":"complete","_meta":{"%b":%b}' % (META_SERVER_INFO.encode(), server_info)


def result_for_legacy(value: bytes | Raw) -> bytes:
    """Return a modern server's complete result as a legacy client knows it.

    `structuredContent` was always an object (2025-11-25 schema): clients refuse the whole result for any
    other value, which the modern era allows and the text repeats.
    """
    members = envelope.object_of(value)
    return envelope.join(members_for_legacy(members)) if members else bytes(value)


def members_for_legacy(members: Members) -> Members:
    """Return the members of a result as `result_for_legacy` does."""
    if start_of(members.get("structuredContent", b"{")) != b"{":
        del members["structuredContent"]
    for name in ("resultType", "ttlMs", "cacheScope"):
        members.pop(name, None)
    if "_meta" in members:
        meta = envelope.object_of(members["_meta"])
        if meta.pop(META_SERVER_INFO, None) is not None:
            members["_meta"] = envelope.object_raw(meta)
            if not meta:
                del members["_meta"]
    return members


def result_type(members: Members) -> str:
    """Return what kind of result a modern server gave; one that does not say so is complete."""
    raw = members.get("resultType")
    return COMPLETE if raw is None else envelope.text(raw)


def code_of(error: Members) -> int:
    """Return the code of an error, by its members; -32603 when it has none."""
    try:
        return int(bytes(error.get("code", b"-32603")))
    except ValueError:
        return INTERNAL_ERROR


def error_for_modern(error: Members, refused: str = "") -> tuple[int, Members]:
    """Return the code and the members of an error as a modern client may see them (-32002 is legacy).

    Args:
        error: As the legacy server gave it.
        refused: What the server wanted to ask the client in this call, when the client had not
            declared that it can be asked: the error then says what to declare.
    """
    code = code_of(error)
    if code == LEGACY_URL_ELICITATION_REQUIRED:
        refused = "elicitation/create url"
    if refused in NEEDS:
        needs = envelope.raw({"requiredCapabilities": NEEDS[refused]})
        return MISSING_CAPABILITY, error | _code(MISSING_CAPABILITY) | {"data": needs}
    if code == LEGACY_RESOURCE_NOT_FOUND:
        return INVALID_PARAMS, error | _code(INVALID_PARAMS)
    return code, error


def error_for_legacy(method: str, error: Members) -> tuple[int, Members]:
    """Return the code and the members of a modern server's error as a legacy client may see them."""
    code = given = code_of(error)
    if code in MODERN_ERRORS:
        code = INTERNAL_ERROR if code in {HEADER_MISMATCH, UNSUPPORTED_VERSION} else INVALID_PARAMS
    elif code == INVALID_PARAMS and method == "resources/read":
        code = LEGACY_RESOURCE_NOT_FOUND
    return code, error if code == given else error | _code(code)


def _code(code: int) -> Members:
    return {"code": envelope.raw(code)}


# ------------------------------------------------------------------ questions


def input_required(requests: Mapping[str, Raw], state: str) -> Text:
    """Write an `input_required` result."""
    return envelope.written(
        {
            "resultType": envelope.raw(INPUT_REQUIRED),
            "inputRequests": envelope.object_raw(dict(requests)),
            "requestState": envelope.raw(state),
        }
    )


def input_request(question: Message) -> Raw:
    """Return a legacy server's question as an entry of `inputRequests`."""
    members = question.members
    kept = {name: members[name] for name in ("method", "params") if name in members}
    params = question.inner("params")
    if params.pop("elicitationId", None) is not None:
        kept["params"] = envelope.object_raw(params)
    return envelope.object_raw(kept)


def question_for_legacy(request: Raw, elicitation_id: str) -> Members:
    """Return an entry of `inputRequests` as members of a legacy server's question, without an id."""
    members = envelope.object_of(request)
    params = envelope.object_of(members.get("params"))
    if envelope.text(members.get("method")) == ELICIT and "url" in params:
        params.setdefault("elicitationId", envelope.raw(elicitation_id))
        members["params"] = envelope.object_raw(params)
    return {"jsonrpc": envelope.VERSION, **members}


def url_requests(error: Members) -> dict[str, Raw]:
    """Return the pages that a -32042 error sends the user to, as `inputRequests`; empty for others."""
    if code_of(error) != LEGACY_URL_ELICITATION_REQUIRED:
        return {}
    data = envelope.object_of(error.get("data"))
    found: dict[str, Raw] = {}
    for number, raw in enumerate(envelope.array_of(data.get("elicitations")), start=1):
        params = envelope.object_of(raw)
        params.pop("elicitationId", None)
        params.setdefault("mode", msgspec.Raw(b'"url"'))
        entry: Members = {"method": envelope.raw(ELICIT), "params": envelope.object_raw(params)}
        found[f"url{number}"] = envelope.object_raw(entry)
    return found
