"""What one call keeps for its caller is bounded."""

import pytest

from mcphub.upstream.exchange import Exchange
from mcphub.upstream.outgoing import Outgoing
from mcphub.wire import envelope

pytestmark = pytest.mark.anyio


async def test_a_call_has_a_bounded_number_of_open_questions():
    exchange = Exchange(Outgoing("tools/call", 1), {}, 1, started=0)
    questions = [
        envelope.parse(b'{"jsonrpc":"2.0","id":%d,"method":"elicitation/create"}' % number)
        for number in range(65)
    ]
    assert [exchange.question(one) for one in questions] == [True] * 64 + [False]
    assert len(await exchange.next()) == 64
    exchange.take_reply(questions[0].id)
    assert exchange.question(questions[-1])
