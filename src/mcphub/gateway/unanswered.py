"""Questions of servers that nobody will answer any more."""

from collections.abc import Iterable
from typing import Final

from mcphub.spawn.instance import Instance
from mcphub.wire import codes, envelope
from mcphub.wire.codes import Era
from mcphub.wire.envelope import Members

_GONE: Final[Members] = {
    "error": envelope.raw(
        {"code": codes.INTERNAL_ERROR, "message": "The client did not answer and is gone."}
    )
}


def refuse(instance: Instance, raw_ids: Iterable[bytes]) -> None:
    """Answer questions that nobody will: a legacy server would wait for them, a modern one asks again.

    Args:
        instance: Who asked.
        raw_ids: The questions' own ids.
    """
    if instance.upstream.era is Era.LEGACY:
        for raw_id in raw_ids:
            instance.upstream.reply(raw_id, _GONE)
