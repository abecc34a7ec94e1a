"""The name in a ClientHello, from hellos that OpenSSL makes."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.spawn.egress import sni


def hello(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_the_name_is_found_in_lower_case():
    assert sni.server_name(hello("API.example.COM")) == "api.example.com"


def test_a_hello_without_a_name_has_none():
    assert sni.server_name(hello(None)) is None


def test_a_hello_split_over_records_is_joined():
    whole = hello("api.example.com")
    body = whole[5:]
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2) + part
        for part in (body[i : i + 40] for i in range(0, len(body), 40))
    )
    assert sni.server_name(records) == "api.example.com"


def test_every_prefix_asks_for_more():
    whole = hello("api.example.com")
    for end in range(len(whole)):
        with pytest.raises(sni.Incomplete):
            sni.server_name(whole[:end])


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x00"])
def test_something_else_is_not_tls(data):
    with pytest.raises(sni.NotTls):
        sni.server_name(data)


WHOLE = hello("api.example.com")


@given(st.binary(max_size=600), st.integers(0, 300))
def test_damaged_hellos_end_in_an_answer_or_a_refusal(noise, at):
    whole = bytearray(WHOLE)
    whole[at : at + len(noise)] = noise
    try:
        found = sni.server_name(bytes(whole))
    except (sni.Incomplete, sni.NotTls):
        return
    assert found is None or isinstance(found, str)
