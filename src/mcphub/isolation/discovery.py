"""Reading what a server offers: every list, page by page."""

from typing import Final

from mcphub.errors import UpstreamFailed
from mcphub.isolation.deeds import apart
from mcphub.isolation.lab import Running
from mcphub.isolation.offers import shown
from mcphub.isolation.surface import Surface, names_of, prompts_of, tools_of

LISTS: Final = (
    ("tools/list", "tools"),
    ("resources/list", "resources"),
    ("resources/templates/list", "resources"),
    ("prompts/list", "prompts"),
)
_PAGES: Final = 20


async def discover(running: Running, user: str) -> Surface:
    """Read every list of a server, page by page.

    Raises:
        UpstreamFailed: It says that it has tools, and does not list them: nobody could say what it does.
    """
    told = running.initialized
    capabilities = told.get("capabilities")
    offered = capabilities if isinstance(capabilities, dict) else {}
    pages: dict[str, list[dict[str, object]]] = {}
    for method, capability in LISTS:
        cursor: object = None
        if capability not in offered and method != "tools/list":
            continue
        for _ in range(_PAGES):
            result = await running.raw(user, method, {"cursor": cursor} if cursor else {})
            if method == "tools/list" and capability in offered and "tools" not in result:
                raise UpstreamFailed("The server does not list its tools.")
            pages.setdefault(method, []).append(result)
            cursor = result.get("nextCursor")
            if not cursor:
                break
    info = told.get("serverInfo")
    instructions = told.get("instructions")
    return Surface(
        tools=apart(shown(tool) for page in pages.get("tools/list", []) for tool in tools_of(page)),
        resources=tuple(
            uri
            for page in pages.get("resources/list", [])
            for uri in names_of(page, "resources", "uri")
        ),
        templates=tuple(
            uri
            for page in pages.get("resources/templates/list", [])
            for uri in names_of(page, "resourceTemplates", "uriTemplate")
        ),
        prompts={
            k: v for page in pages.get("prompts/list", []) for k, v in prompts_of(page).items()
        },
        capabilities=offered,
        server=f"{info.get('name')} {info.get('version')}" if isinstance(info, dict) else "",
        instructions=instructions if isinstance(instructions, str) else "",
    )
