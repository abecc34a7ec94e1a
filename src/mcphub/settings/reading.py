"""Where settings come from: the only reader of the process environment and of `mcphub.toml`.

Order of origin: command line > `MCPHUB_*` environment variables > `mcphub.toml` > default. Whatever is
unknown or wrong is told with its origin and what was meant.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mcphub.errors import InvalidInput
from mcphub.settings.model import HubSettings, names


def default_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the hub's directory when none is named: `MCPHUB_DIR`, else `~/.mcphub`."""
    env = os.environ if environ is None else environ
    return Path(env.get("MCPHUB_DIR") or "~/.mcphub").expanduser()


def environment() -> dict[str, str]:
    """Return a copy of the process environment; for the composition root and the CLI only."""
    return dict(os.environ)


def load(
    directory: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> HubSettings:
    """Read `mcphub.toml`, the environment and `overrides` (nested like the file) into settings.

    Raises:
        InvalidInput: A key is unknown, a value is wrong or a combination is unsafe.
    """
    env = dict(os.environ if environ is None else environ)
    folder = directory if directory is not None else default_dir(env)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    file = folder / "mcphub.toml"
    if file.exists():
        _merge(values, _from_file(file), origins, "mcphub.toml")
    _merge(values, _from_environment(env), origins, "environment")
    _merge(values, overrides or {}, origins, "command line")
    try:
        return HubSettings(**values | {"dir": folder, "operator_env": env, "origins": origins})
    except ValidationError as error:
        raise _problem(error, origins) from None


def _from_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        twice = "twice" in str(error)
        raise InvalidInput(
            f"mcphub.toml cannot be read: {error}.",
            hint="A table such as [listen] stands once: put all its lines below the one that is there."
            if twice
            else "Correct the file.",
        ) from None


def _problem(error: ValidationError, origins: Mapping[str, str]) -> InvalidInput:
    """Return the first problem of settings in words, with where it came from."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    below = (origin for name, origin in origins.items() if name.startswith(f"{where}."))
    origin = origins.get(where) or next(below, "mcphub.toml")
    hint = "All settings: docs/reference/settings.md"
    if first["type"] == "extra_forbidden":
        return InvalidInput(f"There is no setting {where} ({origin}).", hint=_meant(where) or hint)
    if first["type"] == "model_type":
        return InvalidInput(
            f"{where} is a table of settings and no value ({origin}).",
            hint=f"Write [{where}] and the settings below it, or {where}.NAME = VALUE.",
        )
    said = first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    said = said.partition(", unable to")[0]
    return InvalidInput(f"Setting {where} ({origin}): {said}." if where else f"{said}.", hint=hint)


def _meant(given: str) -> str:
    known = names()
    last = given.rpartition(".")[2]
    if last != given and last in HubSettings.model_fields:
        return f"If {last} is meant: it belongs above the first [table] of the file."
    same = [name for name in known if name.rpartition(".")[2] == last]
    found = same or difflib.get_close_matches(given, known, n=1)
    return f"Did you mean {' or '.join(found)}?" if found else ""


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    """`MCPHUB_LISTEN__PORT=1` -> {"listen": {"port": "1"}}; names with two underscores are settings.

    Others, such as MCPHUB_KEY, may be anything and are read only where a setting has that name.

    Raises:
        InvalidInput: There is no setting of a name with two underscores.
    """
    found: dict[str, Any] = {}
    for name, value in env.items():
        if not name.startswith("MCPHUB_"):
            continue
        section, inner, setting = name.removeprefix("MCPHUB_").lower().partition("__")
        field = HubSettings.model_fields.get(section)
        if field is None or section in {"dir", "operator_env", "origins"}:
            if inner:
                where = f"{section}.{setting}"
                raise InvalidInput(
                    f"The environment variable {name} names no setting.", hint=_meant(where)
                )
            continue
        if not inner:
            found[section] = value
        else:
            listed = setting in {"allowed_hosts", "allowed_origins", "command"}
            found.setdefault(section, {})[setting] = value.split(",") if listed else value
    return found


def _merge(
    into: dict[str, Any], new: Mapping[str, Any], origins: dict[str, str], origin: str, at: str = ""
) -> None:
    for key, value in new.items():
        where = f"{at}.{key}" if at else key
        if isinstance(value, Mapping):
            child = into.setdefault(key, {})
            if isinstance(child, dict):
                _merge(child, value, origins, origin, where)
                continue
        into[key] = value
        origins[where] = origin
