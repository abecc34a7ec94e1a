"""`mcphub check --through-hub`: a hub of its own with the same servers, and two new users behind it.

The hub under check is a copy: the settings' servers, pins and packages, but an own database, own users
and own homes, and every network connection ends at the witness. Credentials are sentinels.
"""

import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcphub.app import serving
from mcphub.catalog.forms import shaped, whole_files
from mcphub.catalog.jsonc import parse
from mcphub.catalog.settings_file import read_text
from mcphub.catalog.spots import sounds_secret
from mcphub.ground import ground
from mcphub.hub import Hub
from mcphub.ids import opaque
from mcphub.isolation.backends import detect
from mcphub.isolation.behind import HubLab, Member
from mcphub.isolation.canaries import Canaries
from mcphub.isolation.credentials import hidden_text
from mcphub.isolation.model import Result
from mcphub.isolation.subject import Subject
from mcphub.isolation.through import check_through
from mcphub.isolation.witness.authority import TRUST_VARIABLES
from mcphub.isolation.witness.server import Witness
from mcphub.policy.model import EVERYONE, Role
from mcphub.secret import Secret
from mcphub.settings import HubSettings, load

if TYPE_CHECKING:
    from mcphub.catalog.states import ServerState
    from mcphub.ground import Ground


@dataclass(slots=True)
class Copy:
    """A running copy of the hub.

    Attributes:
        hub: The copy.
        witness, secrets: Where its servers' connections end.
        uid_base: Kernel uid of its users = base + number, where it is root.
    """

    hub: Hub
    witness: Witness
    secrets: Canaries[str]
    uid_base: int

    async def member(self, server: str, credential: str) -> Member:
        """Return a new user whose every slot of the server holds `credential`."""
        name = opaque("check").replace("_", "-")
        directory = self.hub.ground.directory
        await directory.add_user(name, Role.USER)
        key = (await directory.create_key(name)).key.reveal()
        principal = await directory.principal_of(name)
        spec = self.hub.ground.live.current.specs[server]
        files, whole = shaped(spec.files, spec.env), whole_files(spec.files)
        for slot in spec.slot_names:
            form = files[whole[slot]] if slot in whole else f"${{USER_{slot}}}"
            value = form.replace(f"${{USER_{slot}}}", credential)
            await self.hub.ground.vault.put(principal, server, slot, Secret(value))
        await self.hub.refresh()
        home = self.hub.launcher.home(principal.user_id, server)
        uid = self.uid_base + principal.number if os.geteuid() == 0 else os.geteuid()
        return Member(key, home, uid)

    async def check(self, server: str, seconds: float, progress: Callable[[str], None]) -> Result:
        """Check one server of the copy."""
        spec = self.hub.ground.live.current.specs[server]
        version = await self.hub.launcher.programs.version(spec)
        subject = Subject(
            id=server,
            version=version,
            argv=(spec.command, *(_inside(arg) for arg in spec.args)),
            env={name: _inside(text) for name, text in spec.env.items()},
            url=f"{self.hub.url}/mcp/{server}",
        )
        lab = HubLab(subject, self.witness, self.secrets, self)
        return await check_through(lab, seconds, progress)


@asynccontextmanager
async def copied_of(services: "Ground", names: list[str]) -> AsyncIterator[Copy]:
    """Run a copy of a hub with some of its servers."""
    document = parse(read_text(services.live.path))
    written = document.get("mcpServers") or document.get("servers") or {}
    states = await services.states.all()
    servers = {name: written[name] for name in names}
    known = {name: states[name] for name in names if name in states}
    async with copied(services.settings, servers, known) as copy:
        yield copy


@asynccontextmanager
async def copied(
    of: HubSettings,
    servers: Mapping[str, Mapping[str, Any]],
    states: Mapping[str, "ServerState"],
) -> AsyncIterator[Copy]:
    """Run a hub of its own with these servers.

    Args:
        of: Settings of the hub whose packages and environment are used.
        servers: As in `mcp_settings.json`.
        states: What is known of them: pins, evidence.
    """
    secrets: Canaries[str] = Canaries()
    with (
        tempfile.TemporaryDirectory(prefix="mcphub-check-") as place,
        Witness(Path(place) / "witness", secrets) as witness,
    ):
        directory = Path(place) / "hub"
        _write(directory, of.packages, servers, witness)
        settings = load(directory, overrides={"listen": {"port": 0}}, environ=of.operator_env)
        async with ground(settings) as own:
            await _pins(own, states)
        async with serving(settings) as hub:
            yield Copy(hub, witness, secrets, settings.sandbox.uid_base)


async def _pins(own: "Ground", states: Mapping[str, "ServerState"]) -> None:
    for name, state in states.items():
        if state.pin is not None:
            await own.states.set_pin(name, state.pin)
        if state.evidence is not None:
            await own.states.record(name, state.evidence)


def _write(
    directory: Path, packages: Path, servers: Mapping[str, Mapping[str, Any]], witness: Witness
) -> None:
    """Write the copy's directory: the servers with everything redirected, the packages by a link."""
    directory.mkdir(mode=0o700)
    packages.mkdir(parents=True, exist_ok=True)
    (directory / "packages").symlink_to(packages)
    redirected = {name: _redirected(entry, witness) for name, entry in servers.items()}
    text = json.dumps({"mcpServers": redirected}, indent=1)
    (directory / "mcp_settings.json").write_text(text)


def _redirected(entry: Mapping[str, Any], witness: Witness) -> dict[str, Any]:
    """Return an entry whose connections end at the witness and whose secrets are slots."""
    here = f"127.0.0.1:{witness.port}"
    ca = witness.authority.ca_file
    env = {
        name: f"${{USER_{name.upper()}}}" if sounds_secret(name) and "${" not in str(text) else text
        for name, text in (entry.get("env") or {}).items()
    }
    sandbox = dict(entry.get("sandbox") or {})
    line = entry.get("args") or [], entry.get("env") or {}
    named = detect.endpoints(*line)
    mail = witness.mail.redirects() if detect.speaks_mail(*line) else {}
    sandbox |= {
        "egress": [],
        "redirect": {"*:443": here, "*:80": here, **mail, **{f"{h}:{p}": here for h, p in named}},
        "readable": [*sandbox.get("readable", []), str(ca.parent)],
    }
    files = {
        place: text if "${USER_" in str(text) else hidden_text(str(text))
        for place, text in (entry.get("files") or {}).items()
    }
    trust = {name: str(ca) for name in TRUST_VARIABLES}
    return {
        **entry,
        "env": trust | env,
        "files": files,
        "sandbox": sandbox,
        "groups": [EVERYONE],
        "enabled": True,
    }


def _inside(text: str) -> str:
    return text.replace("${USER_HOME}", "/home/u")
