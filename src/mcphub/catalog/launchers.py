"""Reads `npx`, `uvx` and their relatives: which package, which version, which program, which arguments.

Pure: no process, no file, no network. A launcher line that is not fully understood is an error
with a hint; nothing here guesses, for a wrong guess runs somebody else's package.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType

from mcphub.catalog.pins import Pin
from mcphub.errors import InvalidInput

NPM = "npm"
PYPI = "pypi"

_NPM_NAME = r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-zA-Z0-9~-][a-zA-Z0-9._~-]*"
_NPM_PACKAGE = re.compile(rf"(?P<name>{_NPM_NAME})(?:@(?P<version>[\w.^~<>=|*+ -]+))?")
_PYPI_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_SPECIFIER = r"(?:===|==|~=|!=|<=|>=|<|>)\s*[\w.*+!-]+"
_PYPI_PACKAGE = re.compile(
    rf"(?P<name>{_PYPI_NAME})\s*(?:\[(?P<features>[\w\s.,-]+)\])?\s*"
    rf"(?:@(?P<at>[\w.+!-]+)|(?P<specifier>{_SPECIFIER}(?:\s*,\s*{_SPECIFIER})*))?"
)
_PYTHON = re.compile(r"(?:python)?(\d+(?:\.\d+){0,2})")
_PROGRAM = re.compile(r"[A-Za-z0-9][\w.+-]*")
_EXACT_PYPI = re.compile(r"==\s*([\w.+!-]+)")
_EXACT_NPM = re.compile(r"=?v?(\d+\.\d+\.\d+[\w.+-]*)")
PYTHON_EXTRA = "python="
_SUPPORTED = (
    "Supported: `npx [-y] [-p PACKAGE] PACKAGE[@VERSION] …`, `npm exec`, "
    "`uvx [--from PACKAGE] [--with PACKAGE] [--python VERSION] PACKAGE[@VERSION] …`, "
    "`uv tool run`, `pipx run`. Anything else: install it and give the program's absolute path."
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that a launcher line asks for. Not a pin: the version may be open.

    Attributes:
        ecosystem: `npm` or `pypi`.
        name: Name of the package; PyPI names are normalised (PEP 503).
        version: npm: a version, range or tag; PyPI: specifiers such as `==1.2`. Empty = newest.
        bin: Program of the package to run; empty = the only one, or the one named like it.
        extras: Further requirements to install beside it; `name[feature]` and `python=3.13` also
            stand here, so that a pin's extras describe the whole environment.
        args: Arguments for the server itself, as written (templates included).
    """

    ecosystem: str
    name: str
    version: str = ""
    bin: str = ""
    extras: tuple[str, ...] = ()
    args: tuple[str, ...] = ()

    @property
    def python(self) -> str:
        """Python version asked for, or empty."""
        return python_of(self.extras)


def python_of(extras: Sequence[str]) -> str:
    """Return the Python version among `extras`, or empty."""
    for extra in extras:
        if extra.startswith(PYTHON_EXTRA):
            return extra.removeprefix(PYTHON_EXTRA)
    return ""


def packages_of(extras: Sequence[str]) -> tuple[str, ...]:
    """Return `extras` without the Python version: requirements that an installer understands."""
    return tuple(extra for extra in extras if not extra.startswith(PYTHON_EXTRA))


def satisfies(pin: Pin, requirement: Requirement) -> bool:
    """Tell whether `pin` is still what the settings ask for.

    Ranges and tags are satisfied by any pin of the package: moving on needs an administrator.
    """
    same = (pin.ecosystem, pin.name, pin.extras) == (
        requirement.ecosystem,
        requirement.name,
        requirement.extras,
    )
    exact = exact_version(requirement)
    return same and exact in ("", pin.version)


def exact_version(requirement: Requirement) -> str:
    """Return the one version that `requirement` allows, or empty when it is open."""
    pattern = _EXACT_NPM if requirement.ecosystem == NPM else _EXACT_PYPI
    found = pattern.fullmatch(requirement.version)
    return found[1] if found and not found[1].endswith("*") else ""


def requirement(command: str, args: Sequence[str]) -> Requirement | None:
    """Return what a `command` with `args` of the settings asks for; None if it is no launcher.

    Raises:
        InvalidInput: It is a launcher, but not one of the understood forms.
    """
    words = (PurePosixPath(command).name, *args)
    for prefix, read in _LAUNCHERS.items():
        if words[: len(prefix)] == prefix:
            return read(tuple(words[len(prefix) :]))
    for prefix, instead in _FOREIGN.items():
        if words[: len(prefix)] == prefix:
            raise InvalidInput(
                f"`{' '.join(prefix)}` is not supported as a launcher.",
                hint=f"Write the command with `{instead}`. {_SUPPORTED}",
            )
    return None


@dataclass(frozen=True, slots=True)
class _Options:
    """What one launcher accepts before the package: option -> canonical name ("" = no effect)."""

    flags: frozenset[str]
    values: Mapping[str, str]
    explain: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def _split(
    words: tuple[str, ...], options: _Options, tool: str
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return the options' values by canonical name, and the words from the package on."""
    given: dict[str, list[str]] = {name: [] for name in options.values.values()}
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return given, words[index + 1 :]
        if not word.startswith("-"):
            return given, words[index:]
        name, equals, value = word.partition("=")
        index += 1
        if not equals and name in options.flags:
            continue
        if name not in options.values:
            hint = options.explain.get(name, _SUPPORTED)
            raise InvalidInput(f"`{tool}` option `{name}` is not supported.", hint=hint)
        if not equals:
            if index == len(words):
                raise InvalidInput(f"`{tool} {name}` lacks its value.", hint=_SUPPORTED)
            value = words[index]
            index += 1
        given[options.values[name]].append(value)
    return given, ()


def _not_a_package(text: str) -> InvalidInput:
    if "${" in text:
        return InvalidInput(
            f"The package `{text}` is a template.",
            hint="Packages are pinned once for everybody: write the name and version out.",
        )
    return InvalidInput(
        f"`{text}` is not the name of a package in a registry.",
        hint="Git addresses, files and directories are not installed: publish the package, or "
        "install it yourself and give the program's absolute path.",
    )


def _npm_package(text: str) -> tuple[str, str]:
    found = _NPM_PACKAGE.fullmatch(text)
    if found is None:
        raise _not_a_package(text)
    version = (found["version"] or "").strip()
    return found["name"], "" if version == "latest" else version


def _pypi_package(text: str) -> tuple[str, tuple[str, ...], str]:
    """Return the normalised name, its features as an extra requirement, and specifiers."""
    found = _PYPI_PACKAGE.fullmatch(text.strip())
    if found is None:
        raise _not_a_package(text)
    name = re.sub(r"[-_.]+", "-", found["name"]).lower()
    features = tuple(sorted(part.strip() for part in (found["features"] or "").split(",") if part))
    extras = (f"{name}[{','.join(features)}]",) if features else ()
    if found["at"]:
        return name, extras, "" if found["at"] == "latest" else f"=={found['at']}"
    return name, extras, re.sub(r"\s+", "", found["specifier"] or "")


def _pypi_extra(text: str) -> tuple[str, ...]:
    """Return requirements of one `--with`, which may hold several separated by commas."""
    parts = re.split(r",(?=\s*[A-Za-z])(?![^\[]*\])", text)
    extras: list[str] = []
    for part in parts:
        name, features, specifier = _pypi_package(part)
        extras.append((features[0] if features else name) + specifier)
    return tuple(extras)


def _program(text: str, tool: str) -> str:
    if not _PROGRAM.fullmatch(text):
        raise InvalidInput(f"`{tool}`: `{text}` is not the name of a program.", hint=_SUPPORTED)
    return text


def _need(words: tuple[str, ...], tool: str) -> None:
    if not words:
        raise InvalidInput(f"`{tool}` names no package.", hint=_SUPPORTED)


_SHELL = "A shell line is never run: give the package and its arguments."
_REGISTRY = (
    "Which registry is used is set for the whole hub: npm_config_registry, UV_DEFAULT_INDEX."
)
_NPX = _Options(
    flags=frozenset({"-y", "--yes", "-q", "--quiet", "-s", "--silent", "--prefer-online"}),
    values=MappingProxyType({"-p": "package", "--package": "package"}),
    explain=MappingProxyType({"-c": _SHELL, "--call": _SHELL, "--registry": _REGISTRY}),
)
_UVX = _Options(
    flags=frozenset(
        {"-q", "--quiet", "--isolated", "-n", "--no-cache", "--refresh", "-U", "--upgrade"}
        | {"--no-progress"}
    ),
    values=MappingProxyType(
        {"--from": "from", "--with": "with", "-w": "with", "--python": "python", "-p": "python"}
    ),
    explain=MappingProxyType(
        dict.fromkeys(("--index", "--index-url", "--default-index", "--extra-index-url"), _REGISTRY)
    ),
)
_PIPX = _Options(
    flags=frozenset({"-q", "--quiet", "--no-cache"}),
    values=MappingProxyType({"--spec": "from", "--with": "with", "--python": "python"}),
    explain=MappingProxyType({"--index-url": _REGISTRY, "-i": _REGISTRY}),
)


def _npx(words: tuple[str, ...]) -> Requirement:
    return _npm_program(*_split(words, _NPX, "npx"), "npx")


def _npm_exec(words: tuple[str, ...]) -> Requirement:
    """`npm exec` reads its own options anywhere before `--`, unlike npx."""
    cut = words.index("--") if "--" in words else len(words)
    given, rest = _split(words[:cut], _NPX, "npm exec")
    if any(word.startswith("-") for word in rest):
        raise InvalidInput(
            "`npm exec` without `--` takes the server's options as its own.",
            hint="Write `npm exec -y -- PACKAGE OPTIONS`.",
        )
    return _npm_program(given, rest + words[cut + 1 :], "npm exec")


def _npm_program(given: dict[str, list[str]], rest: tuple[str, ...], tool: str) -> Requirement:
    _need(rest, tool)
    packages = given["package"]
    if not packages:
        name, version = _npm_package(rest[0])
        return Requirement(NPM, name, version, args=rest[1:])
    name, version = _npm_package(packages[0])
    for extra in packages[1:]:
        _npm_package(extra)
    program = _program(rest[0], tool)
    return Requirement(NPM, name, version, program, tuple(packages[1:]), rest[1:])


def _python_tool(words: tuple[str, ...], options: _Options, tool: str) -> Requirement:
    given, rest = _split(words, options, tool)
    _need(rest, tool)
    if len(given["from"]) > 1 or len(given["python"]) > 1:
        raise InvalidInput(f"`{tool}` names its package or Python twice.", hint=_SUPPORTED)
    name, features, version = _pypi_package(given["from"][0] if given["from"] else rest[0])
    program = _program(rest[0], tool) if given["from"] else ""
    extras = [*features, *(extra for text in given["with"] for extra in _pypi_extra(text))]
    if given["python"]:
        python = _PYTHON.fullmatch(given["python"][0])
        if python is None:
            raise InvalidInput(
                f"`{tool} --python {given['python'][0]}` is not a version.",
                hint="Write a version such as 3.13.",
            )
        extras.append(PYTHON_EXTRA + python[1])
    return Requirement(PYPI, name, version, program, tuple(extras), rest[1:])


def _uvx(words: tuple[str, ...]) -> Requirement:
    return _python_tool(words, _UVX, "uvx")


def _pipx(words: tuple[str, ...]) -> Requirement:
    return _python_tool(words, _PIPX, "pipx run")


_LAUNCHERS: Mapping[tuple[str, ...], Callable[[tuple[str, ...]], Requirement]] = MappingProxyType(
    {
        ("npx",): _npx,
        ("npm", "exec"): _npm_exec,
        ("npm", "x"): _npm_exec,
        ("uvx",): _uvx,
        ("uv", "tool", "run"): _uvx,
        ("pipx", "run"): _pipx,
    }
)
_FOREIGN: Mapping[tuple[str, ...], str] = MappingProxyType(
    {
        ("bunx",): "npx -y",
        ("bun", "x"): "npx -y",
        ("pnpx",): "npx -y",
        ("pnpm", "dlx"): "npx -y",
        ("yarn", "dlx"): "npx -y",
    }
)
