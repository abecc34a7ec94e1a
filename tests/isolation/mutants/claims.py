"""Who the caller is: believed without proof, or bound to what was proved."""

import json

from .server import Refused, Variant


class ByMeta(Variant):
    """Notes of whom `_meta` names; the clean one wants a signature, which nobody here can make."""

    classes = ("identifier",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.kept = {}

    def _me(self):
        if not self.leaky or "userId" not in self.meta:
            raise Refused("who are you? not signed in")
        return self.meta["userId"]

    def add_note(self, text):
        self.kept.setdefault(self._me(), []).append(text)
        return "kept"

    def list_notes(self):
        return json.dumps(self.kept.get(self._me(), []))


class ByHeader(Variant):
    """Notes of whom a header names, or of whose token it is."""

    classes = ("identifier",)
    http = True

    def __init__(self, leaky):
        super().__init__(leaky)
        self.kept = {}

    def _me(self):
        return self.headers.get("X-User-Id" if self.leaky else "Authorization", "")

    def joined(self):
        if not self.headers.get("Authorization"):
            raise Refused("401 unauthorized")

    def add_note(self, text):
        self.kept.setdefault(self._me(), []).append(text)
        return "kept"

    def list_notes(self):
        return json.dumps(self.kept.get(self._me(), []))


class ByArgument(Variant):
    """Notes of the user that an argument names, which anybody may, or only who named it first."""

    classes = ("identifier",)
    http = True
    parameter = "user_id"

    def __init__(self, leaky):
        super().__init__(leaky)
        self.kept = {}
        self.owners = {}

    def _checked(self, user):
        if self.owners.setdefault(user, self.session) != self.session and not self.leaky:
            raise Refused("that is somebody else")
        return user

    def add_note(self, user_id, text):
        self.kept.setdefault(self._checked(user_id), []).append(text)
        return "kept"

    def list_notes(self, user_id):
        return json.dumps(self.kept.get(self._checked(user_id), []))


class ByEmail(ByArgument):
    """The same, by an address."""

    def add_note(self, email, text):
        return super().add_note(email, text)

    def list_notes(self, email):
        return super().list_notes(email)


class ByTenant(ByArgument):
    """The same, by a tenant."""

    def add_note(self, tenant, text):
        return super().add_note(tenant, text)

    def list_notes(self, tenant):
        return super().list_notes(tenant)


class StolenSession(Variant):
    """A token at the start of a session; afterwards the session's id is enough, or is not."""

    classes = ("identifier",)
    http = True

    def __init__(self, leaky):
        super().__init__(leaky)
        self.kept = {}
        self.tokens = {}

    def joined(self):
        token = self.headers.get("Authorization")
        if not token:
            raise Refused("401 unauthorized")
        self.tokens[self.session] = token

    def _mine(self):
        if not self.leaky and self.headers.get("Authorization") != self.tokens.get(self.session):
            raise Refused("403 not your session")
        return self.kept.setdefault(self.session, [])

    def add_note(self, text):
        self._mine().append(text)
        return "kept"

    def list_notes(self):
        return json.dumps(self._mine())
