"""What is known of well-known packages: hosts they call, how risky they are, what they need.

Data with its date, `data/known_servers.json`. It fills in an egress list that the settings leave
out and gives advice; it never opens anything that the settings closed, and never sets a risk.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from mcphub.catalog.launchers import Requirement


@dataclass(frozen=True, slots=True)
class KnownServer:
    """Facts about one package.

    Attributes:
        package: Its name in its registry.
        title: Display name.
        risk: The suggested `riskLevel`.
        egress: Hosts that it calls by default.
        slots: Environment names that hold each user's own credential.
        files: Files below the home from which it reads each user's credentials, as in an entry.
        env: Environment that it needs behind a hub.
        env_reason: What that environment is for, as the end of a sentence.
        needs_egress: What the operator must list, because it depends on the site.
    """

    package: str
    title: str
    risk: str
    egress: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    env_reason: str = "so that each user has own data"
    needs_egress: str = ""


@cache
def _data() -> tuple[str, dict[tuple[str, str], KnownServer]]:
    text = files("mcphub.catalog").joinpath("data/known_servers.json").read_text("utf-8")
    raw = json.loads(text)
    found = {
        (ecosystem, package): KnownServer(
            package=package,
            title=facts["title"],
            risk=facts["riskLevel"],
            egress=tuple(facts.get("egress", ())),
            slots=tuple(facts.get("slots", ())),
            files=facts.get("files", {}),
            env=facts.get("env", {}),
            needs_egress=facts.get("needsEgress", ""),
            **({"env_reason": facts["envReason"]} if "envReason" in facts else {}),
        )
        for ecosystem in ("npm", "pypi")
        for package, facts in raw[ecosystem].items()
    }
    return raw["date"], found


def known_date() -> str:
    """Return the day on which the facts were checked, `YYYY-MM-DD`."""
    return _data()[0]


def known_server(requirement: Requirement | None) -> KnownServer | None:
    """Return what is known of the package that a launcher line asks for, or None."""
    if requirement is None:
        return None
    return _data()[1].get((requirement.ecosystem, requirement.name))
