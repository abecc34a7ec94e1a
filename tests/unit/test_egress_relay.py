"""The gateway's copying: a side that breaks off ends both, as one plain error."""

import socket
import struct

import pytest

from mcphub.spawn.egress.relay import _splice

pytestmark = pytest.mark.anyio
AT_ONCE = struct.pack("ii", 1, 0)


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for each in (one, other):
        each.setblocking(False)
    return one, other


@pytest.mark.parametrize("breaks", [0, 1])
async def test_a_side_that_is_reset_ends_the_copying_with_a_reset(breaks):
    client, inner = connected()
    server, outer = connected()
    with client, inner, server, outer:
        gone = (client, server)[breaks]
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        gone.close()  # with RST
        with pytest.raises(ConnectionResetError):
            await _splice(inner, outer, [0, 0])
