"""VS Code's `inputs`: what `${input:id}` in its `servers` means behind a hub.

A password input becomes a credential slot of each user; any other input becomes its default, or a
variable of the operator's environment. Values in, values out; nothing is asked and nothing is run.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcphub.catalog.problems import json_path
from mcphub.catalog.spec import FactName
from mcphub.catalog.templates import escaped

_INPUT = re.compile(r"(?<!\$)\$\{input:([^{}]*)\}")


@dataclass(slots=True)
class Inputs:
    """The replacements for one document.

    Attributes:
        templates: What `${input:id}` becomes, by id.
        notes: Sentences that say what became of each input.
        problems: Path and message of what cannot be understood.
    """

    templates: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def replaced(self, value: Any) -> Any:
        """Return `value` with every known `${input:id}` replaced, at any depth."""
        return _mapped(value, lambda text: _INPUT.sub(self._one, text))

    def _one(self, match: re.Match[str]) -> str:
        return self.templates.get(match.group(1), match.group())


def slot_name(text: str) -> str:
    """Return a credential slot's name for any text: `github-token` is `GITHUB_TOKEN`."""
    name = re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")[:64]
    name = name.removeprefix("USER_") or "CREDENTIAL"
    if not name[0].isalpha():
        name = f"S_{name}"[:64]
    return name if f"USER_{name}" not in set(FactName) else f"MY_{name}"


def read_inputs(raw: Any) -> Inputs:
    """Return the replacements for the `inputs` list of a VS Code file (None when it has none)."""
    inputs = Inputs()
    if raw is None:
        return inputs
    if not isinstance(raw, list):
        inputs.problems.append((json_path("inputs"), "It should be a list."))
        return inputs
    for index, one in enumerate(raw):
        ident = one.get("id") if isinstance(one, dict) else None
        if not isinstance(ident, str) or not ident:
            inputs.problems.append((json_path("inputs", index), 'An input has a text "id".'))
            continue
        inputs.templates[ident], note = _template(ident, one)
        inputs.notes.append(f'input "{ident}": {note}')
    return inputs


def _template(ident: str, one: dict[str, Any]) -> tuple[str, str]:
    slot = slot_name(ident)
    if one.get("password") is True:
        return f"${{USER_{slot}}}", f"each user sets the credential {slot}."
    default = one.get("default")
    if isinstance(default, str) and "\x00" not in default:
        return escaped(default), "its default is used for everybody."
    return f"${{{slot}}}", f"set {slot} in the environment of the hub."


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(inner, change) for inner in value]
    if isinstance(value, dict):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    return value
