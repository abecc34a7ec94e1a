"""The stand-ins for mail, with the clients of the standard library."""

import imaplib
import smtplib
import ssl

import pytest

from mcphub.isolation.backends import detect
from mcphub.isolation.canaries import Canaries, mint
from mcphub.isolation.witness.server import Witness


@pytest.fixture
def standing_in(tmp_path):
    """Return the witness, the ports of IMAP and SMTP, a credential, a word of A's, and what to trust."""
    secrets, words = Canaries(), Canaries()
    secret, word = secrets.plant("env:MAIL_PASSWORD", mint()), words.plant("said", mint())
    with Witness(tmp_path, secrets) as witness:
        witness.words = words
        ports = [int(server.server_address[1]) for server in witness.mail.servers]
        trust = ssl.create_default_context(cafile=str(witness.authority.ca_file))
        yield witness, ports, secret, word, trust


def _imap(kind, port, trust):
    if kind == "tls":
        trust.check_hostname = False  # the client dials a number
        return imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=trust, timeout=10)
    box = imaplib.IMAP4("127.0.0.1", port, timeout=10)
    if kind == "starttls":
        trust.check_hostname = False
        box.starttls(trust)
    return box


@pytest.mark.parametrize("kind", ["plain", "tls", "starttls"])
def test_whoever_logs_in_to_read_mail_is_noted_with_the_password(standing_in, kind):
    witness, (port, _), secret, word, trust = standing_in
    with _imap(kind, port, trust) as box:
        box.login(word, secret)
        assert box.select()[1] == [b"1"]
        assert box.list()[1] == [b'(\\HasNoChildren) "/" "INBOX"']
        assert box.search(None, "ALL")[1] == [b"1"]
        text = box.fetch("1", "(FLAGS BODY.PEEK[])")[1]
        assert b"Subject: A title" in text[0][1]
        assert b"Subject" in box.uid("fetch", "1", "(BODY[HEADER])")[1][0][1]
        assert box.append("INBOX", None, None, b"Subject: x\r\n\r\nwords\r\n")[0] == "OK"
        assert box.status("INBOX", "(MESSAGES)")[0] == "OK"
    (seen,) = witness.since(0)
    assert (seen.method, seen.credentials) == ("IMAP", frozenset(["env:MAIL_PASSWORD"]))
    assert seen.said == frozenset([word])


def test_a_login_in_base64_is_read(standing_in):
    witness, (port, _), secret, _, _ = standing_in
    with imaplib.IMAP4("127.0.0.1", port, timeout=10) as box:
        box.authenticate("PLAIN", lambda _: f"\0me\0{secret}".encode())
    (seen,) = witness.since(0)
    assert seen.credentials == frozenset(["env:MAIL_PASSWORD"])


@pytest.mark.parametrize("kind", ["plain", "tls", "starttls"])
@pytest.mark.parametrize("way", ["auth_plain", "auth_login"])
def test_whoever_sends_mail_is_noted_too_and_nothing_is_sent(standing_in, kind, way):
    witness, (_, port), secret, word, trust = standing_in
    trust.check_hostname = False
    opened = (
        smtplib.SMTP_SSL("127.0.0.1", port, context=trust, timeout=10)
        if kind == "tls"
        else smtplib.SMTP("127.0.0.1", port, timeout=10)
    )
    with opened as mail:
        if kind == "starttls":
            mail.starttls(context=trust)
        mail.ehlo()
        mail.user, mail.password = word, secret
        mail.auth(way.removeprefix("auth_").upper(), getattr(mail, way))
        assert (
            mail.sendmail("a@example.com", ["b@example.com"], "Subject: x\r\n\r\nwords\r\n") == {}
        )
    (seen,) = witness.since(0)
    assert (seen.method, seen.credentials) == ("SMTP", frozenset(["env:MAIL_PASSWORD"]))
    assert seen.said == frozenset([word])


@pytest.mark.parametrize(
    ("args", "env", "speaks"),
    [
        (["x", "y"], {"IMAP_HOST": "imap.acme.test"}, True),
        (["/packages/some-email-server/main.js"], {}, True),
        (["x"], {"HOST": "smtp.acme.test"}, True),
        (["x"], {"HOST": "api.acme.test"}, False),
    ],
)
def test_mail_is_stood_in_for_where_the_launch_line_speaks_of_it(args, env, speaks):
    assert detect.speaks_mail(args, env) is speaks
