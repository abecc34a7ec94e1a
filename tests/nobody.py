"""A signer of no hub, for parts that are tested without one."""

from mcphub.vault.keys import Key, KeyRing
from mcphub.vault.signing import ContextSigner


class _FixedKeys:
    """Implements `KeyProvider` for tests that sign nothing that counts."""

    def keys(self) -> tuple[Key, ...]:
        return (Key("test", b"t" * 32),)

    def fingerprint(self) -> object:
        return None


def nobodys_signer() -> ContextSigner:
    """Return a signer with a fixed key."""
    return ContextSigner(KeyRing.load(_FixedKeys()), Key("subjects", b"s" * 32), "i_test")
