"""What the hub must know of MCP's official extensions, Apps and Tasks, to pass them on to the right place.

Everything else of an extension is passed on as it came. Pure functions on raw members. Source: MCP
Apps 2026-01-26 (SEP-1865), Tasks (SEP-2663); the experimental tasks of 2025-11-25 share the method names.
"""

from typing import Final

from mcphub.wire import envelope
from mcphub.wire.envelope import Members
from mcphub.wire.pieces import Raw

APPS: Final = "io.modelcontextprotocol/ui"
TASKS: Final = "io.modelcontextprotocol/tasks"
TASK: Final = "task"
"""The `resultType` of a result that stands for a task instead of an answer."""
TASK_METHODS: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel", "tasks/result"})
"""Methods whose `taskId` says where they go."""
_ROUTED: Final = (APPS, TASKS)


def ui_resource(definition: bytes | Raw) -> str:
    """Return the URI of the page that a tool shows itself with, or ""; both forms, nested and flat."""
    if b"ui" not in bytes(definition):
        return ""
    meta = envelope.object_of(envelope.object_of(definition).get("_meta"))
    nested = envelope.object_of(meta.get("ui"))
    return envelope.text(nested.get("resourceUri")) or envelope.text(meta.get("ui/resourceUri"))


def declares(capabilities: Members, extension: str) -> bool:
    """Whether capabilities name an extension."""
    return extension in envelope.object_of(capabilities.get("extensions"))


def routed(capabilities: Members) -> Members:
    """Return the extensions in capabilities that work at an endpoint of several servers."""
    found = envelope.object_of(capabilities.get("extensions"))
    return {name: found[name] for name in _ROUTED if name in found}


def new_task(members: Members) -> str:
    """Return the id of the task that a result announces, or "": of the extension or of 2025-11-25."""
    if envelope.text(members.get("resultType")) == TASK:
        return envelope.text(members.get("taskId"))
    return envelope.text(envelope.object_of(members.get("task")).get("taskId"))
