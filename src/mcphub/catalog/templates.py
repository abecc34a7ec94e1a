"""Templates in settings: `${USER_<SLOT>}`, facts about the user, and the operator's environment.

Grammar of a text: `${USER_<SLOT>}` is a credential slot of the user; `${USER_ID}`, `${USER_NAME}`,
`${USER_HOME}` are facts; `${NAME}`, `${env:NAME}` and `${NAME:-default}` are the operator's
environment; `$$` is one dollar sign (so `$${X}` is the text `${X}`); a `$` before anything else is
itself. Everything else between `${` and `}` is an error.

Two passes. `prepare` runs when settings load: it puts the operator's values in, with their dollar
signs doubled, and leaves what belongs to a user. `expand` runs when an instance starts: it puts the
user's values in. So no value, of whomever, is ever read as a template.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mcphub.catalog.spec import FactName
from mcphub.errors import InvalidInput, MissingCredential
from mcphub.secret import Secret

_PART = re.compile(r"\$\$|\$\{(?P<body>[^{}]*)\}|\$\{")
_SLOT = re.compile(r"USER_([A-Z][A-Z0-9_]*)\Z")
_VARIABLE = re.compile(
    r"(?P<mark>env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?\Z", re.S
)
_FACTS = frozenset(fact.value for fact in FactName)
_LONGEST_SLOT = 64


class TemplateError(InvalidInput):
    """A template that means nothing; message and hint name it, never a value."""

    code = "invalid_template"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text after the operator's pass.

    Attributes:
        text: Only user templates and doubled dollar signs are left in it; `expand` finishes it.
        slots: Names of its credential slots, in order, each once.
        facts: The facts that it uses.
    """

    text: str
    slots: tuple[str, ...] = ()
    facts: frozenset[FactName] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether nothing of a user goes into it."""
        return not self.slots and not self.facts


def escaped(value: str) -> str:
    """Return `value` as a template that stands for exactly this text."""
    return value.replace("$", "$$")


def prepare(text: str, operator_env: Mapping[str, str]) -> Prepared:
    """Put the operator's values into `text`, and find its slots and facts.

    Raises:
        TemplateError: Unknown or malformed template, or a variable that is not set.
    """
    slots: dict[str, None] = {}
    facts: set[FactName] = set()

    def put(match: re.Match[str]) -> str:
        whole, body = match.group(), match.group("body")
        if whole == "$$":
            return whole
        if body is None:
            raise TemplateError('A "${" has no end.', hint='Write "$${" for the text "${".')
        if body in _FACTS:
            facts.add(FactName(body))
            return whole
        if body.startswith("USER_"):
            slots[_slot_name(body)] = None
            return whole
        return escaped(_operator_value(body, operator_env))

    made = _PART.sub(put, text)
    return Prepared(made, tuple(slots), frozenset(facts))


def _slot_name(body: str) -> str:
    match = _SLOT.match(body)
    if match is None:
        hint = (
            "A credential has no default: each user sets an own value."
            if ":-" in body
            else "Write ${USER_<SLOT>} with A-Z, 0-9 and _, beginning with a letter."
        )
        raise TemplateError(f'"{_shown(body)}" is no credential slot.', hint=hint)
    slot = match.group(1)
    if slot in _FACTS or len(slot) > _LONGEST_SLOT:
        raise TemplateError(
            f'"{_shown(body)}" cannot name a credential slot.',
            hint=f"The facts' names are reserved; a slot has at most {_LONGEST_SLOT} characters.",
        )
    return slot


def _operator_value(body: str, operator_env: Mapping[str, str]) -> str:
    match = _VARIABLE.match(body)
    if match is None:
        raise TemplateError(
            f'The template "{_shown(body)}" is unknown.',
            hint="Known are ${USER_<SLOT>}, ${USER_ID}, ${USER_NAME}, ${USER_HOME}, ${NAME}, "
            '${env:NAME} and ${NAME:-default}; "$${" is the text "${".',
        )
    name, default = match.group("name"), match.group("default")
    if name.startswith("MCPHUB_"):
        raise TemplateError(
            f"The hub's own variable {name} is never given to a server.",
            hint="Put the value into a variable of another name.",
        )
    value = operator_env.get(name)
    if value is not None:
        return value
    if default is not None:
        return default
    raise TemplateError(
        f"The environment variable {_shown(name)} is not set where the hub runs.",
        hint=f"Set it, write ${{{_shown(name)}:-default}}, or ${{USER_{_shown(name).upper()}}} if it is "
        "each user's own credential.",
    )


def _shown(body: str) -> str:
    """The part of a template that may be shown: never what stands after `:-`."""
    shown = body.partition(":-")[0][:_LONGEST_SLOT]
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def plain_text(prepared: Prepared) -> str:
    """Return the final text of a prepared template that holds nothing of a user."""
    assert prepared.is_plain
    return prepared.text.replace("$$", "$")


def expand(text: str, values: Mapping[str, str | Secret]) -> str | Secret:
    """Put a user's values into a prepared text.

    Args:
        text: From a `ServerSpec`.
        values: By the template's whole name: `USER_GITHUB_TOKEN` for a slot, `USER_ID` for a fact.

    Returns:
        A `Secret` as soon as one went in; otherwise the plain text.

    Raises:
        MissingCredential: A slot or fact has no value. Nothing is ever put in its place (rule R5).
    """
    sealed = False

    def put(match: re.Match[str]) -> str:
        nonlocal sealed
        if match.group() == "$$":
            return "$"
        name = match.group("body") or ""
        value = values.get(name)
        if value is None:
            raise MissingCredential(f"The credential {name.removeprefix('USER_')} is not set.")
        if isinstance(value, str):
            return value
        sealed = True
        return value.reveal()

    made = _PART.sub(put, text)
    return Secret(made) if sealed else made
