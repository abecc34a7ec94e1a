"""A call goes out with a credential that is not the caller's."""

import os

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
