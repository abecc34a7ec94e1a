"""Users who connect accounts: settings of a server with OAuth, a browser, and both ways to connect."""

import html
import re

import httpx2

REMOTE = "notes"


def protected(server, **fields):
    """Settings of a server that requires OAuth, whose authorization server is on loopback too."""
    return {
        "type": "http",
        "url": server.url,
        "oauth": {"privateHosts": ["127.0.0.1"], **fields.pop("oauth", {})},
        "groups": ["everyone"],
        "riskLevel": "critical",
        **fields,
    }


class Browser:
    """A browser: cookies per host, links and redirects are followed one by one."""

    def __init__(self, account=None):
        self.http = httpx2.AsyncClient(timeout=30, follow_redirects=False)
        self.account = account

    async def __aenter__(self):
        await self.http.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.http.__aexit__(*error)

    async def page(self, hub, user, server=REMOTE):
        """Give the key on the hub's page; returns what it shows."""
        return await self.http.post(
            f"{hub.url}/oauth/connect/{server}",
            data={"key": hub.keys[user]},
            headers={"Origin": hub.url},
        )

    async def log_in(self, page):
        """Follow the page's link and log in; returns where the authorization server sends one back to."""
        cookies = {"Cookie": f"account={self.account}"} if self.account else {}
        answer = await self.http.get(link_of(page), headers=cookies)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    async def connect(self, hub, user, server=REMOTE):
        """Connect by the hub's page; returns its last answer."""
        page = await self.page(hub, user, server)
        assert page.status_code == 200, page.text
        return await self.http.get(await self.log_in(page))


def link_of(page):
    """The link with which a user goes on from a page of the hub."""
    return html.unescape(re.search(r'class="go" [^>]*href="([^"]+)"', page.text)[1])


async def connect(hub, user, account=None, server=REMOTE):
    """Connect a user's account as the command does; returns the answer to the confirmation."""
    async with Browser(account or f"{user}@example") as browser:
        begun = await begin(browser.http, hub, user, server)
        assert begun.status_code == 200, begun.text
        page = await browser.http.get(begun.json()["url"])
        back = await browser.http.get(await browser.log_in(page))
        assert back.status_code == 303, back.text
        confirmation = back.headers["location"].partition("confirmation=")[2]
        return await confirm(browser.http, hub, user, confirmation, server)


async def begin(http, hub, user, server=REMOTE, return_to="http://127.0.0.1:9/back"):
    """Begin to connect over the API."""
    return await http.post(
        f"{hub.url}/api/me/connections/{server}",
        json={"return_to": return_to},
        headers=hub.headers(user),
    )


async def confirm(http, hub, user, confirmation, server=REMOTE):
    """Confirm over the API."""
    return await http.post(
        f"{hub.url}/api/me/connections/{server}/confirm",
        json={"confirmation": confirmation},
        headers=hub.headers(user),
    )
