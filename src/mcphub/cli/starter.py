"""What `mcphub init` writes: `mcphub.toml` with every default as a comment, and a first set of servers."""

import json
from collections.abc import Mapping

from pydantic import BaseModel

from mcphub.settings import HubSettings

SERVERS = """\
// The servers of this hub: the `mcpServers` of Claude Desktop plus the hub's own fields.
// Edits take effect within a second; a mistake is told and keeps the old state.
// More: docs/reference/settings.md, or `mcphub server add --help`.
{
  "mcpServers": {
    // Without state of its own. `low` may be shared by all users once an administrator has
    // acknowledged its version (`mcphub server acknowledge`); until then every user has an own one.
    "time": {
      "command": "uvx",
      "args": ["mcp-server-time"],
      "riskLevel": "low",
      "groups": ["everyone"],
      "sandbox": { "egress": [] }
    },

    // Every user sees an own directory, ${USER_HOME}, and nothing of anybody else's.
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "${USER_HOME}"],
      "riskLevel": "critical",
      "groups": ["everyone"],
      "sandbox": { "egress": [] }
    },

    // Writes a file inside its package by default, one for all; here it is in the user's directory.
    "memory": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-memory"],
      "env": { "MEMORY_FILE_PATH": "${USER_HOME}/memory.jsonl" },
      "riskLevel": "critical",
      "groups": ["everyone"],
      "sandbox": { "egress": [] }
    }

    // A server with a credential: ${USER_GITHUB_TOKEN} becomes a slot that each user fills
    // (`mcphub credential set github GITHUB_TOKEN`); nobody's value is ever used for another.
    // , "github": {
    //   "command": "npx",
    //   "args": ["-y", "@modelcontextprotocol/server-github"],
    //   "env": { "GITHUB_PERSONAL_ACCESS_TOKEN": "${USER_GITHUB_TOKEN}" },
    //   "riskLevel": "critical",
    //   "groups": ["everyone"],
    //   "sandbox": { "egress": ["api.github.com"] }
    // }
  }
}
"""
_ABOUT = """\
# Settings of this hub. Every line shows its default; remove the # to change it.
# `listen.port = 9000` and a table [listen] with `port = 9000` are the same; use one of both for a table.
# The environment (MCPHUB_LISTEN__PORT=…) and the command line win over this file.
# Which servers there are is in mcp_settings.json. `mcphub config show` tells what is in force.
"""


def toml() -> str:
    """Return `mcphub.toml`: all settings with their defaults, commented out.

    Names are dotted and there are no tables, so that lines may be uncommented, and tables added at
    the end, in any order.
    """
    parts = [_ABOUT, "\n"]
    for name, field in HubSettings.model_fields.items():
        if field.exclude or name == "dir":
            continue
        if isinstance(field.default, BaseModel):
            parts += ["\n", *_lines(name, field.default)]
        else:
            parts.append(_line(name, field.default, field.description))
    return "".join(parts)


def _lines(section: str, model: BaseModel) -> list[str]:
    return [
        _line(f"{section}.{name}", getattr(model, name), field.description)
        for name, field in type(model).model_fields.items()
    ]


def _line(name: str, value: object, about: str | None) -> str:
    return f"# {about}\n# {name} = {toml_text(value)}\n"


def toml_text(value: object) -> str:
    """Return a value as `mcphub.toml` has it."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{json.dumps(key)} = {toml_text(of)}" for key, of in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_text, value))}]"
    return json.dumps(value, ensure_ascii=False)
