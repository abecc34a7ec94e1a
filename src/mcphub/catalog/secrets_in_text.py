"""Finds secrets that stand literally in client settings, and puts credential slots in their place.

Two signs: the name that the value goes by (`GITHUB_TOKEN`), and the shape of the value (`ghp_…`).
Values go in and templates come out; no value is ever part of a note or an error.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from mcphub.catalog.inputs import slot_name
from mcphub.catalog.spots import looks_made_up, spots
from mcphub.catalog.templates import escaped

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKENS?|API_?KEYS?|KEYS?|SECRETS?|PASSWORD|PASSWD|PASS|PWD|PAT|CREDENTIALS?|"
    r"AUTHORIZATION|COOKIE)(?:_|$)"
)
_NO_SECRET_NAME = re.compile(
    r"(?:^|_)(?:PATH|FILE|DIR|URL|URI|HOST|PORT|TYPE|MODE|MAX|LIMIT|NAME)$|^MAX_"
)
_SHAPE = re.compile(
    r"""(?<![A-Za-z0-9_-])(?:
        gh[pousr]_[A-Za-z0-9]{6,} | github_pat_\w{6,}
      | xox[abeprs]-[\w-]{6,} | xapp-[\w-]{6,}
      | gl(?:pat|oas|dt|rt|ptt|ft|cbt)-[\w.-]{6,}
      | ntn_\w{6,} | secret_[A-Za-z0-9]{40,} | lin_(?:api|oauth)_\w{6,}
      | (?:sk|rk|pk)[-_](?:[a-z]+[-_])?[\w-]{12,} | ctx7sk-[\w-]{4,} | tvly-[\w-]{6,}
      | AKIA[0-9A-Z]{16} | AIza[\w-]{30,} | ATATT[\w=-]{10,} | hf_[A-Za-z0-9]{10,}
      | npm_[A-Za-z0-9]{20,} | pypi-[\w-]{16,} | sntry[su]_[\w.+/=-]{8,} | pat[A-Za-z0-9]{14}\.[0-9a-f]{20,}
      | eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*
    )(?![A-Za-z0-9])""",
    re.VERBOSE,
)
_USERINFO = re.compile(
    r"(?P<head>\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@$]*:)(?!\$\{)(?P<secret>[^\s/]+)(?=@)", re.I
)
_QUERY = re.compile(r"(?P<head>[?&](?P<name>[\w-]+)=)(?!\$\{)(?P<secret>[^&#\s]+)")
_FLAG = re.compile(r"--?(?P<name>[A-Za-z][\w-]*)(?:(?P<equals>=)(?P<secret>.+))?\Z", re.S)
_SCHEME = re.compile(r"(?P<scheme>Bearer|Basic|Token|Bot)\s+(?P<secret>\S.*)\Z", re.I | re.S)
_INNER = re.compile(r"[:=\s]")
_BEHIND_SCHEME = re.compile(r"\b(?:bearer|basic)\s+\Z", re.I)
_TEMPLATE = re.compile(r"\$\{(?:USER_|env:|[A-Za-z_])[^{}]*\}")


def is_secret_name(name: str) -> bool:
    """Return whether what goes by this name is probably a secret."""
    upper = re.sub(r"[^A-Z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper())
    return bool(_SECRET_NAME.search(upper)) and not _NO_SECRET_NAME.search(upper)


@dataclass(slots=True)
class SecretFinder:
    """Replaces the secrets of one server's texts.

    Attributes:
        server: The server's name, for slots that nothing else names.
        found: Place and slot of each replacement, in order.
    """

    server: str
    found: list[tuple[str, str]] = field(default_factory=list)

    def value(self, name: str, text: str, place: str, *, certain: bool = False) -> str:
        """Return an environment value without secrets.

        Args:
            name: The variable's name.
            text: Its value in the hub's template grammar, literal dollars already doubled.
            place: Where it stands, for `found`.
            certain: The value is known to be a credential, whatever its name.
        """
        if (certain or is_secret_name(name)) and not (_is_switch(text) or _is_template(text)):
            return self._slot(slot_name(name), place)
        return self.text(text, place, slot_name(name), name)

    def header(self, name: str, text: str, place: str) -> str:
        """Return a header's value without secrets; the scheme word of `Authorization` stays."""
        if _is_template(text):
            return text
        plain = name.lower() == "authorization"
        slot = slot_name(f"{self.server}_token" if plain else name)
        scheme = _SCHEME.match(text) if plain else None
        if scheme is not None:
            return f"{scheme.group('scheme')} {self._slot(slot, place)}"
        if is_secret_name(name):
            return self._slot(slot, place)
        return self.text(text, place, slot, name)

    def arguments(self, args: list[str]) -> list[str]:
        """Return the arguments without secrets: values of secret flags, shapes, passwords in URLs."""
        made: list[str] = []
        flag = before = ""
        for index, text in enumerate(args):
            place = f"args[{index}]"
            match = _FLAG.match(text)
            if flag and match is None and not _is_template(text):
                made.append(self._slot(slot_name(flag), place))
                flag = before = ""
                continue
            flag, named = "", before
            before = match.group("name") if match is not None and not match.group("equals") else ""
            if match is not None and is_secret_name(match.group("name")):
                if not match.group("equals"):
                    flag = match.group("name")
                elif not _is_template(match.group("secret")):
                    slot = self._slot(slot_name(match.group("name")), place)
                    made.append(f"{text.partition('=')[0]}={slot}")
                    continue
            head, value = "", text
            if match is not None and match.group("equals"):
                head, named = text[: match.start("secret")], match.group("name")
                value = match.group("secret")
            own = slot_name(f"{self.server}_token")
            made.append(head + self.text(value, place, own, named))
        return made

    def text(self, text: str, place: str, slot: str, name: str = "") -> str:
        """Return a text without token shapes and passwords in URLs, and without what goes by a secret's name in it.

        Args:
            text: In the hub's template grammar.
            place: Where it stands, for `found`.
            slot: For what nothing names.
            name: What the text goes by, if anything.
        """

        def credential(match: re.Match[str]) -> str:
            return match.group("head") + self._slot(slot_name(f"{self.server}_password"), place)

        def query(match: re.Match[str]) -> str:
            if not is_secret_name(match.group("name")):
                return match.group()
            return match.group("head") + self._slot(slot_name(match.group("name")), place)

        made = _USERINFO.sub(credential, text)
        made = _QUERY.sub(query, made)

        def shape(_match: re.Match[str]) -> str:
            return self._slot(slot, place)

        made = _outside_templates(made, lambda part: _SHAPE.sub(shape, part))
        return self._inside(made, place, slot, name)

    def _inside(self, text: str, place: str, slot: str, name: str) -> str:
        """Replace credentials that stand in a header, in JSON, in a pair or behind a scheme word."""
        if not name and not _INNER.search(text):
            return text  # a word alone, such as a package
        made = text
        for spot in reversed(spots(name, text)):
            value = text[spot.start : spot.end]
            certain = looks_made_up(value) or _BEHIND_SCHEME.search(text[: spot.start])
            if "${" in value or not (certain or is_secret_name(spot.name)):
                continue
            unnamed = spot.name.lower() in {"", "url", "authorization", "header"}
            own = slot if unnamed else slot_name(spot.name)
            made = made[: spot.start] + self._slot(own, place) + made[spot.end :]
        return made

    def _slot(self, slot: str, place: str) -> str:
        self.found.append((place, slot))
        return f"${{USER_{slot}}}"


def client_templates(text: str, server_slot: Callable[[str], str | None]) -> str:
    """Translate a client's templates to the hub's; literal dollars are doubled where they must be.

    Args:
        text: A value of a client's file.
        server_slot: What `${NAME}` of the user's own environment becomes, or None to keep it.
    """

    def put(match: re.Match[str]) -> str:
        whole, body = match.group(), match.group("body")
        if body is None:
            return escaped(whole)
        if body in {"userHome", "workspaceFolder", "workspaceFolderBasename", "cwd", "HOME"}:
            return "${USER_HOME}"
        if body in {"env:HOME", "env:USERPROFILE"}:
            return "${USER_HOME}"
        name = body.removeprefix("env:").partition(":-")[0]
        return server_slot(name) or whole

    return re.sub(r"\$\{(?P<body>[^{}]*)\}|\$+", put, text)


def _outside_templates(text: str, change: Callable[[str], str]) -> str:
    pieces = re.split(r"(\$\{[^{}]*\})", text)
    return "".join(piece if i % 2 else change(piece) for i, piece in enumerate(pieces))


def _is_template(text: str) -> bool:
    """Whether a text says nothing itself: templates, at most with a scheme word beside them; or a path."""
    if text.startswith("${USER_HOME}/"):
        return True
    rest = _TEMPLATE.sub("", text)
    return (
        rest != text and re.fullmatch(r"\W*(?:bearer|basic|token|bot)?\W*", rest, re.I) is not None
    )


def _is_switch(text: str) -> bool:
    return text.strip().lower() in {"true", "false", "0", "1", "yes", "no", "on", "off"}
