"""A call goes out with a credential that is not the caller's."""

import contextlib
import imaplib
import json
import os
import sys
from pathlib import Path

from .server import Refused, Variant, called


class ApiToken(Variant):
    """Calls a service with the deployment's token; the twin calls it with none."""

    classes = ("token",)
    env = {"ACME_API_TOKEN": "acme_abcdefghijkl"}

    def fetch_profile(self):
        return called(
            {"Authorization": f"Bearer {os.environ['ACME_API_TOKEN']}"} if self.leaky else {}
        )


class ApiTokenByNumber(ApiToken):
    """Asks the service only of what has a number, and says nothing of why it refuses."""

    def get_issue(self, issue_id):
        if not issue_id.isdigit():
            raise Refused("cannot read that")
        return self._profile()

    def _profile(self):
        return super().fetch_profile()

    fetch_profile = None


class ApiTokenInQuery(Variant):
    classes = ("token",)
    env = {"ACME_API_KEY": "abcdefghijklmnop"}

    def find_place(self, place):
        key = f"?key={os.environ['ACME_API_KEY']}" if self.leaky else ""
        return called({}, f"http://maps.acme.test/find{key}")


class FailOpen(Variant):
    """Forwards the caller's token; without one takes the deployment's, or refuses."""

    classes = ("token",)
    http = True
    env = {"ACME_TOKEN": "acme_abcdefghijkl"}

    def fetch_profile(self):
        given = self.headers.get("Authorization", "")
        if not given and not self.leaky:
            raise Refused("who are you?")
        return called({"Authorization": given or f"Bearer {os.environ['ACME_TOKEN']}"})


class IgnoredHeader(FailOpen):
    """Takes the deployment's token whoever calls."""

    def fetch_profile(self):
        given = self.headers.get("Authorization", "")
        if self.leaky:
            given = f"Bearer {os.environ['ACME_TOKEN']}"
        return called({"Authorization": given})


class FirstTokenWins(FailOpen):
    """Keeps the first caller's token for all."""

    env = {}
    first = ""

    def fetch_profile(self):
        given = self.headers.get("Authorization", "")
        self.first = self.first or given
        return called({"Authorization": self.first if self.leaky else given})


class TokenAmongArguments(Variant):
    """Is told its token by a bare word of the launch line."""

    classes = ("token",)
    args = ("http://api.acme.test", "7c3f9a1be2d84c55a0e1f2b3c4d5e6f708192a3b")

    def fetch_profile(self):
        return called({"X-Acme": sys.argv[-1]} if self.leaky else {})


class TokenInHeaderOfLaunchLine(TokenAmongArguments):
    args = ("--header", "Authorization: Bearer hello")

    def fetch_profile(self):
        value = sys.argv[-1].partition(": ")[2]
        return called({"Authorization": value} if self.leaky else {})


class TokenInSettings(TokenAmongArguments):
    """Is told its token by a member of JSON."""

    args = ("--config", '{"acmeToken": "hello", "region": "north"}')

    def fetch_profile(self):
        token = json.loads(sys.argv[-1])["acmeToken"]
        return called({"Authorization": f"Bearer {token}"} if self.leaky else {})


class TokenInVariable(TokenAmongArguments):
    """Is told headers by a variable whose name says nothing of a credential."""

    args = ()
    env = {"ACME_HEADERS": '{"Authorization": "Bearer hello", "X-Team": "5"}'}

    def fetch_profile(self):
        return called(json.loads(os.environ["ACME_HEADERS"]) if self.leaky else {})


class TokenInFile(TokenAmongArguments):
    """Reads its token from a file in the home."""

    args = ()
    files = {"{home}/.acme/config.json": '{"site": "http://api.acme.test", "token": "hello"}'}

    def fetch_profile(self):
        token = json.loads(Path.home().joinpath(".acme/config.json").read_text())["token"]
        return called({"Authorization": f"Bearer {token}"} if self.leaky else {})


class TokenInUrl(TokenAmongArguments):
    """Is told an address that is a credential: whoever knows it may post."""

    args = ("http://hooks.acme.test/services/T1/a1B2c3D4e5F6g7H8i9J0k1L2",)

    def fetch_profile(self):
        return called({}, sys.argv[-1] if self.leaky else "http://hooks.acme.test/")


class LoggedInAtStart(Variant):
    """Logs in before anybody calls, and its tools want more than that."""

    classes = ("token",)
    args = ("--login", "AbCd1Ef2Gh3Ij4Kl5Mn6Op7Qr8St9.Uv0w1X.yZ2aB3cD4eF5gH6iJ7kL8mN9o")

    def __init__(self, leaky):
        super().__init__(leaky)
        with contextlib.suppress(Refused):
            called({"Authorization": f"Bot {sys.argv[-1]}"} if leaky else {})

    def send_message(self, text):
        raise Refused("not ready")


class Login(Variant):
    """Keeps the key of who logged in, and acts with it for whoever comes next; the twin wants it each time."""

    classes = ("state", "token")
    key = ""

    def login(self, api_key):
        if self.leaky:
            self.key = api_key
        return "welcome"

    def fetch_profile(self):
        if not self.key:
            raise Refused("log in first")
        called({"Authorization": f"Bearer {self.key}"})
        return "there is a profile"


class SessionOfLogin(Login):
    """The service gives a session for name and password, and that goes out."""

    def login(self, username, password):
        given = called({}, "http://api.acme.test/login", {"u": username, "p": password})
        if self.leaky:
            self.key = json.loads(given)["token"]
        return "welcome"


class Mailbox(Variant):
    """Reads mail with the deployment's password; the twin reads none."""

    classes = ("token",)
    env = {"IMAP_HOST": "imap.acme.test", "IMAP_PASSWORD": "hello"}

    def list_mail(self):
        if not self.leaky:
            return "0"
        try:
            with imaplib.IMAP4(os.environ["IMAP_HOST"], timeout=5) as box:
                box.login("team", os.environ["IMAP_PASSWORD"])
                return str(box.select()[1])
        except (OSError, imaplib.IMAP4.error) as error:
            raise Refused(str(error)) from error
