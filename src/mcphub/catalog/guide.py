"""The guide to credentials: what the value of a slot is, its least rights, where it is made.

Data with its date, `data/guides.json`, for well-known services; anything else gets a general
answer. Texts are for users and for agents that relay them, so they never hold a value, and the
command in them asks for the value instead of taking it.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files

from mcphub.catalog.forms import whole_files
from mcphub.catalog.spec import ServerSpec
from mcphub.secret import OAUTH_SLOT

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class SlotGuide:
    """What a user must know to fill one slot.

    Attributes:
        title: The service.
        what: What kind of value it is.
        scopes: The least rights to give it, one sentence each.
        where: A URL, or who makes it.
    """

    title: str
    what: str
    scopes: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class _Known:
    guide: SlotGuide
    slots: tuple[str, ...]
    servers: tuple[str, ...]


@cache
def _known() -> tuple[_Known, ...]:
    text = files("mcphub.catalog").joinpath("data/guides.json").read_text("utf-8")
    return tuple(
        _Known(
            SlotGuide(raw["title"], raw["what"], tuple(raw["scopes"]), raw["where"]),
            tuple(raw["slots"]),
            tuple(raw["servers"]),
        )
        for raw in json.loads(text)["guides"]
    )


def guide_for(
    server: str, slot: str, places: Sequence[str] = (), *, whole_file: str = ""
) -> SlotGuide:
    """Return the guide for a slot of a server.

    Args:
        server: The server's name.
        slot: The slot's name, without `USER_`.
        places: Where the slot stands (`env.GITHUB_TOKEN`), for slots with a name of their own.
        whole_file: Path below the home, where the value is all that stands in a file.
    """
    guide = _guide_for(server, slot, places)
    if not whole_file:
        return guide
    sentence = f"The value is a whole file, which the server reads as ~/{whole_file}."
    return replace(guide, what=f"{guide.what} {sentence}")


def _guide_for(server: str, slot: str, places: Sequence[str]) -> SlotGuide:
    names = [slot.upper(), *(place.partition(".")[2].upper() for place in places)]
    for name in filter(None, names):
        for known in _known():
            if any(fnmatchcase(name, pattern) for pattern in known.slots):
                return known.guide
    for known in _known():
        if any(fnmatchcase(server, pattern) for pattern in known.servers):
            return known.guide
    return SlotGuide(
        title=server,
        what=f"Your own value for {slot}, such as an API token of the service behind {server}.",
        scopes=("Read-only if that is enough", "Only what you need, with an expiry date"),
        where="The service's settings page for API tokens, or ask your administrator.",
    )


def guide_of(spec: ServerSpec, slot: str) -> Mapping[str, object]:
    """Return the guide for a slot of a spec as JSON values: title, what, scopes, where."""
    if slot == OAUTH_SLOT:
        return {
            "title": spec.title,
            "what": "Your authorization: you log in at the service, and no value is copied.",
            "scopes": list(spec.oauth.scopes) if spec.oauth is not None else [],
            "where": f"Run: mcphub credential connect {spec.name}",
        }
    places = next((known.places for known in spec.slots if known.name == slot), ())
    whole = whole_files(spec.files).get(slot, "")
    guide = asdict(guide_for(spec.name, slot, places, whole_file=whole))
    return {**guide, "scopes": list(guide["scopes"])}


def set_command(hub_url: str, server: str, slot: str, *, whole_file: bool = False) -> str:
    """Return the exact command with which a user sets a slot; it asks for the value, or takes a file."""
    words = ["mcphub", "credential", "set", server, slot]
    words += ["--from-file", "FILE"] if whole_file else []
    return shlex.join([*words, "--url", hub_url.rstrip("/")] if hub_url else words)


def missing_credential_text(
    hub_url: str, server: str, slots: Sequence[str], spec: ServerSpec | None = None
) -> str:
    """Return what an agent can tell its user when credentials are missing.

    Args:
        hub_url: URL of the hub as its users reach it.
        server: The server's name.
        slots: The slots without a value, at least one.
        spec: The server's, which says where the values go.
    """
    if OAUTH_SLOT in slots:
        return _connect_text(hub_url, server, [slot for slot in slots if slot != OAUTH_SLOT])
    places = {slot.name: slot.places for slot in spec.slots} if spec is not None else {}
    whole = whole_files(spec.files) if spec is not None else {}
    one = len(slots) == 1
    lines = [
        f'The server "{server}" works with your own credentials only, and '
        f"{'one of them is' if one else f'{len(slots)} of them are'} not set: {', '.join(slots[:_SHOWN])}."
    ]
    for slot in slots[:_SHOWN]:
        guide = guide_for(server, slot, places.get(slot, ()), whole_file=whole.get(slot, ""))
        named = [place.removeprefix("env.") for place in places.get(slot, ()) if "env." in place]
        lines += [
            "",
            f"{slot}: {guide.title}. {guide.what}",
            *([f"  The server calls it {', '.join(named)}."] if named and named != [slot] else []),
            f"  Least rights: {'; '.join(guide.scopes)}.",
            f"  Where to make it: {guide.where}",
            f"  Set it with: {set_command(hub_url, server, slot, whole_file=slot in whole)}",
        ]
    asks = "reads the file" if whole.keys() >= set(slots) else "asks for the value"
    lines += [
        "",
        f"The command {asks}. Do not put the value into this conversation. "
        "Then try the call again.",
    ]
    return "\n".join(lines)


def _connect_text(hub_url: str, server: str, others: Sequence[str]) -> str:
    """Return how a user connects an account; what else is missing comes after it."""
    url = hub_url.rstrip("/")
    command = shlex.join(
        ["mcphub", "credential", "connect", server, *(["--url", url] if url else [])]
    )
    lines = [
        f'The server "{server}" works with your own account only, which is not connected to this hub '
        "yet, or not any more.",
        "",
        *([f"  Connect it in a browser: {url}/oauth/connect/{server}"] if url else []),
        f"  Or in a terminal: {command}",
        "",
        "Both ask for no password of the service. Then try the call again.",
    ]
    if others:
        lines += ["", missing_credential_text(hub_url, server, others)]
    return "\n".join(lines)
