"""The demo's `mcp_settings.json`: published servers as a team would enter them.

What a user has to give is a `${USER_…}` slot; nothing in the file is secret.
"""

from typing import Any

from mcphub.testing.demo import packages
from mcphub.testing.demo.databases import (
    DATABASE,
    DatabaseServer,
    mariadb_environment,
    mysql_environment,
)
from mcphub.testing.github_standin import HOST, GitHubStandIn

TEAMS = ("engineering", "data")


def settings(
    github: GitHubStandIn,
    postgres: DatabaseServer | None = None,
    mariadb: DatabaseServer | None = None,
) -> dict[str, Any]:
    """Return the file's content.

    Args:
        github: Where the GitHub server's hard-coded API host leads to in the sandbox.
        postgres: PostgreSQL of this run, when its row is wanted.
        mariadb: MariaDB of this run, when its rows are wanted.
    """
    home = "${USER_HOME}"
    servers: dict[str, Any] = {
        "github": _npx(
            packages.GITHUB,
            env={
                "GITHUB_PERSONAL_ACCESS_TOKEN": "${USER_GITHUB_TOKEN}",
                "NODE_EXTRA_CA_CERTS": str(github.ca_file),
            },
            sandbox={
                "egress": [HOST],
                "redirect": {f"{HOST}:443": f"127.0.0.1:{github.port}"},
                "readable": [str(github.ca_file.parent)],
            },
            groups=list(TEAMS),
        ),
        "git": _npx(packages.GIT, env={"MCP_TRANSPORT_TYPE": "stdio", "GIT_BASE_DIR": home}),
        "python": {
            "command": "uvx",
            "args": ["--with", packages.PYTHON_WITH, packages.PYTHON, "--dir", home],
            "riskLevel": "critical",
            "groups": ["everyone"],
        },
        "files": _npx(packages.FILESYSTEM, home),
        "memory": _npx(packages.MEMORY, env={"MEMORY_FILE_PATH": f"{home}/memory.jsonl"}),
        "memory-default": _npx(packages.MEMORY),
    }
    account, password = "${USER_DATABASE_ACCOUNT}", "${USER_DATABASE_PASSWORD}"
    if postgres is not None:
        url = f"postgresql://{account}:{password}@{postgres.address}/{DATABASE}"
        servers["postgres"] = _npx(
            packages.POSTGRES, url, sandbox={"egress": [postgres.address]}, groups=list(TEAMS)
        )
    if mariadb is not None:
        only = {"egress": [mariadb.address]}
        servers["mysql"] = _npx(
            packages.MYSQL, env=mysql_environment(mariadb, account, password), sandbox=only
        )
        servers["mariadb"] = {
            "command": "uvx",
            "args": [packages.MARIADB],
            "env": mariadb_environment(mariadb, account, password),
            "riskLevel": "critical",
            "groups": ["everyone"],
            "sandbox": only,
        }
    return {"mcpServers": servers}


def _npx(package: str, *args: str, **fields: Any) -> dict[str, Any]:
    entry = {"command": "npx", "args": ["-y", package, *args]}
    return entry | {"riskLevel": "critical", "groups": ["everyone"]} | fields
