"""Statements for parameters that are small languages: what A plants with, what B looks around with.

`{c}` is a canary, `{t}` a table that both know (names of tables are no secret), `{v}` a name for a
variable, `{n}` a number for a lock. A statement that a server's language does not have fails, and
that is all. B's statements are the same in every run.
"""

import re
from typing import Final

from mcphub.isolation.kinds import Kind

_SQL_PLANT: Final = (
    "CREATE TABLE IF NOT EXISTS {t} (v VARCHAR(200))",
    "INSERT INTO {t} (v) VALUES ('{c}')",
    "CREATE TABLE {t}x AS SELECT '{c}' AS v",
    "SET @{v} = '{c}'",
    "SELECT @{v}s := '{c}'",
    "PREPARE {v} AS SELECT '{c}' AS v",
    "PREPARE {v} FROM 'SELECT ''{c}'' AS v'",
    "COMMIT; SET application_name = '{c}'",
    "SET application_name = '{c}'",
    "CREATE TEMP TABLE {v}t AS SELECT '{c}' AS v",
    "CREATE TEMPORARY TABLE {v}t AS SELECT '{c}' AS v",
    "SET VARIABLE {v} = '{c}'",
    "SELECT GET_LOCK('{v}', 0) AS held",
    "SELECT pg_try_advisory_lock({n}) AS held",
    "PRAGMA user_version = {n}",
    "CREATE SCHEMA IF NOT EXISTS {v}d",
    "USE {v}d",
    "USE information_schema",
)
_SQL_OBSERVE: Final = (
    "SELECT v FROM {t}",
    "SELECT v FROM {t}x",
    "SELECT @{v} AS v",
    "SELECT @{v}s AS v",
    "EXECUTE {v}",
    "SELECT name, statement FROM pg_prepared_statements",
    "SELECT current_setting('application_name') AS v",
    "SELECT v FROM {v}t",
    "SELECT getvariable('{v}') AS v",
    "SELECT IS_USED_LOCK('{v}') IS NOT NULL AS held",
    "SELECT objid FROM pg_locks WHERE locktype = 'advisory'",
    "PRAGMA user_version",
    "SELECT DATABASE() AS d",
    "SELECT current_schema() AS d",
    "SHOW TABLES",
    "SELECT name FROM sqlite_master",
)
_SQL_OPENED: Final = ("SELECT note FROM notes", "SELECT v FROM {t}", "SELECT v FROM {t}x")
_PYTHON_PLANT: Final = (
    "{v} = '{c}'\nprint('done')",
    "import os\nos.environ['{v}'] = '{c}'\nprint('done')",
)
_PYTHON_OBSERVE: Final = (
    "print({v})",
    "import os\nprint(dict(os.environ))",
    "print(sorted(name for name in globals() if not name.startswith('_')))",
)
_SCRIPT_PLANT: Final = ("globalThis.{v} = '{c}'; console.log('done'); 'done'",)
_SCRIPT_OBSERVE: Final = (
    "console.log(globalThis.{v}); globalThis.{v}",
    "console.log(JSON.stringify(process.env)); JSON.stringify(process.env)",
)
_SHELL_PLANT: Final = (
    "echo {c} > {v}.txt; export {v}={c}; echo {c}",
    "sh -c 'echo {c}; sleep 8'",
    "cd /tmp",
)
_SHELL_OBSERVE: Final = ("cat {v}.txt", "pwd", "env", "printenv", "echo ${v}")
_EXPRESSION_PLANT: Final = ("40+2", "{v} = {n}", "{n} 7")
_EXPRESSION_OBSERVE: Final = ("+", "1+1", "{v}", "ans")
_EXAMPLE: Final = re.compile(r"[\"'`]([^\"'`\n]{1,60})[\"'`]")
_LIKE_EXPRESSION: Final = re.compile(r"\d.*[-+*/^%()]|[-+*/^%(].*\d")
_EXAMPLES: Final = 2
_SHELLS: Final = frozenset(["sh", "bash", "shell", "shellscript", "zsh"])
_JAVASCRIPT: Final = re.compile(r"javascript|typescript|\bnode\b|\bjs\b", re.IGNORECASE)


def statements(kind: Kind, user: str, about: str) -> tuple[str, ...]:
    """Return what user A or B says in the language of a parameter.

    Args:
        kind: One of `kinds.TEMPLATES`.
        user: `A` plants, `B` observes.
        about: Description of tool and parameter, for the language's name; or the name alone.
    """
    plants = user == "A"
    if kind is Kind.SQL:
        return _SQL_PLANT if plants else _SQL_OBSERVE
    if kind is Kind.COMMAND:
        return _SHELL_PLANT if plants else _SHELL_OBSERVE
    if kind is Kind.EXPRESSION:
        return (*(_EXPRESSION_PLANT if plants else _EXPRESSION_OBSERVE), *_shown(about))
    if _is_script(about):
        return _SCRIPT_PLANT if plants else _SCRIPT_OBSERVE
    if about.lower() in _SHELLS:
        return _SHELL_PLANT if plants else _SHELL_OBSERVE
    return _PYTHON_PLANT if plants else _PYTHON_OBSERVE


def reading(kind: Kind, about: str, path: str) -> str:
    """Return what reads a file in a language; nothing where the language has no files."""
    if kind is Kind.COMMAND or about.lower() in _SHELLS:
        return f"cat {path}"
    if kind is not Kind.CODE:
        return ""
    if _is_script(about):
        return f"console.log(require('fs').readFileSync('{path}', 'utf8'))"
    return f"print(open('{path}').read())"


def opening(kind: Kind, variable: str) -> list[str]:
    """Return what shows the content of a file that a tool opens as a database; else nothing.

    Args:
        kind: Of the tool's language.
        variable: The name that both users know.
    """
    if kind is not Kind.SQL:
        return []
    return [text.replace("{t}", f"t{variable}") for text in _SQL_OPENED]


def _shown(about: str) -> list[str]:
    """Return the expressions that a description quotes: nobody writes them in as many ways as servers read."""
    quoted = [text for text in _EXAMPLE.findall(about) if _LIKE_EXPRESSION.search(text)]
    return list(dict.fromkeys(quoted))[:_EXAMPLES]


def _is_script(about: str) -> bool:
    return bool(_JAVASCRIPT.search(about)) and "python" not in about.lower()
