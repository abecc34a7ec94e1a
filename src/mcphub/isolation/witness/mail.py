"""Stand-ins for mail: IMAP (RFC 9051) and SMTP (RFC 5321), as much as it takes to log in and look around.

One message is in every mailbox; what is sent or changed is taken and forgotten. Whoever logs in is noted
with what was said. TLS from the first byte or by STARTTLS. What a client says is material, never an instruction.
"""

import base64
import re
import socket
import socketserver
import ssl
from collections.abc import Callable
from typing import Any, Final

IMAP_PORTS: Final = (143, 993)
SMTP_PORTS: Final = (25, 465, 587, 2525)
_TLS_HANDSHAKE: Final = b"\x16"
_IDLE_S: Final = 30.0
_FIRST_S: Final = 0.3  # who begins with TLS does so at once; others wait for the greeting
_MOST: Final = 4 * 1024 * 1024
_MOST_LINES: Final = 2000
_LITERAL: Final = re.compile(rb"\{(\d{1,8})(\+?)\}$")
_MESSAGE: Final = (
    b"From: someone@example.com\r\nTo: you@example.com\r\nSubject: A title\r\n"
    b"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\nA few words.\r\n"
)
_PERSON: Final = b'(("Someone" NIL "someone" "example.com"))'
_FACTS: Final = {
    b"UID": b"1",
    b"FLAGS": b"(\\Seen)",
    b"INTERNALDATE": b'"01-Jan-2026 00:00:00 +0000"',
    b"RFC822.SIZE": b"%d" % len(_MESSAGE),
    b"ENVELOPE": b'("Thu, 01 Jan 2026 00:00:00 +0000" "A title" '
    + b" ".join([_PERSON] * 4)
    + b' NIL NIL NIL "<1@example.com>")',
    b"BODYSTRUCTURE": b'("TEXT" "PLAIN" ("CHARSET" "utf-8") NIL NIL "7BIT" 14 1 NIL NIL NIL NIL)',
}
_BOXES: Final = {
    b"LIST": b'* LIST (\\HasNoChildren) "/" "INBOX"\r\n',
    b"LSUB": b'* LSUB (\\HasNoChildren) "/" "INBOX"\r\n',
    b"XLIST": b'* XLIST (\\HasNoChildren) "/" "INBOX"\r\n',
    b"NAMESPACE": b'* NAMESPACE (("" "/")) NIL NIL\r\n',
    b"SELECT": b"* FLAGS (\\Seen \\Deleted)\r\n* 1 EXISTS\r\n* 0 RECENT\r\n"
    b"* OK [UIDVALIDITY 1]\r\n* OK [UIDNEXT 2]\r\n",
    b"EXAMINE": b"* FLAGS (\\Seen \\Deleted)\r\n* 1 EXISTS\r\n* 0 RECENT\r\n"
    b"* OK [UIDVALIDITY 1]\r\n* OK [UIDNEXT 2]\r\n",
    b"STATUS": b"* STATUS {box} (MESSAGES 1 RECENT 0 UIDNEXT 2 UIDVALIDITY 1 UNSEEN 1)\r\n",
    b"SEARCH": b"* SEARCH 1\r\n",
    b"LOGOUT": b"* BYE\r\n",
}
_WANTED: Final = re.compile(rb"BODY(?:\.PEEK)?\[([^\]]*)\]|RFC822(?:\.HEADER|\.TEXT)?(?![.\w])")

Noted = Callable[[str], None]
"""Takes what was said with a login, or to a mailbox or a recipient."""


class Mail:
    """Serves both on free ports of 127.0.0.1 once `threads` run them.

    Args:
        tls: For who wants it.
        noted: Told the name that TLS was asked for (or nothing), the protocol, and what was said.
    """

    def __init__(self, tls: ssl.SSLContext, noted: Callable[[str, str, str], object]) -> None:
        self.servers = [_Server(kind, tls, noted) for kind in (_Imap, _Smtp)]

    def redirects(self) -> dict[str, str]:
        """Return where every host's ports for mail lead, as `host:port` -> `host:port`."""
        imap, smtp = (f"127.0.0.1:{server.server_address[1]}" for server in self.servers)
        return {f"*:{port}": imap for port in IMAP_PORTS} | {
            f"*:{port}": smtp for port in SMTP_PORTS
        }


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(
        self, kind: type["_Dialogue"], tls: ssl.SSLContext, noted: Callable[[str, str, str], object]
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kind, self.tls, self.noted = kind, tls, noted

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: what hangs up or refuses the certificate is the server's under check."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle(self) -> None:
        self._connection: socket.socket = self.request
        self._connection.settimeout(_FIRST_S)
        try:
            secure = self._connection.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE
        except TimeoutError:
            secure = False
        self._connection.settimeout(_IDLE_S)
        if secure:
            self._secure()
        self._lines = self._connection.makefile("rb")
        dialogue = self.server.kind(self._noted, secure=secure)
        self._say(dialogue.greeting)
        for _ in range(_MOST_LINES):
            line = self._line()
            if line is None:
                return
            answer = dialogue.answer(line)
            self._say(answer)
            if dialogue.upgrades:
                dialogue.upgrades = False
                self._secure()
                self._lines = self._connection.makefile("rb")
            if dialogue.ended:
                return

    def finish(self) -> None:
        for opened in (getattr(self, "_lines", None), self._connection):
            if opened is not None:
                opened.close()  # the server closes the socket below it

    def _noted(self, said: str) -> None:
        self.server.noted("a mail server", self.server.kind.name, said)

    def _secure(self) -> None:
        self._connection = self.server.tls.wrap_socket(self._connection, server_side=True)

    def _say(self, answer: bytes) -> None:
        if answer:
            self._connection.sendall(answer)

    def _line(self) -> bytes | None:
        """Return one line with its literals, or None at the end."""
        line = self._lines.readline(65536)
        while line and (literal := _LITERAL.search(line.rstrip(b"\r\n"))):
            if len(line) + int(literal[1]) > _MOST:
                return None
            if not literal[2]:
                self._say(b"+ go on\r\n")
            line += self._lines.read(int(literal[1])) + self._lines.readline(65536)
        return line.rstrip(b"\r\n") if line.endswith(b"\n") else None


class _Dialogue:
    """What a protocol answers, line by line."""

    name = ""
    greeting = b""

    def __init__(self, noted: Noted, *, secure: bool) -> None:
        self.upgrades = self.ended = False
        self._noted, self._secure = noted, secure
        self._asked: list[str] = []
        self._tag = b""

    def answer(self, line: bytes) -> bytes:
        """Return what is said to a line; nothing while more of the same is to come."""
        raise NotImplementedError

    def _login(self, parts: list[bytes]) -> None:
        self._noted("\n".join(part.decode("utf-8", "replace") for part in parts))

    def _challenged(self, line: bytes, steps: int) -> bool:
        """Take one answer of `AUTH`; returns whether all are there."""
        self._asked.append(_decoded(line))
        if len(self._asked) < steps:
            return False
        self._noted("\n".join(self._asked))
        self._asked = []
        return True


class _Imap(_Dialogue):
    name = "IMAP"
    greeting = b"* OK ready\r\n"
    _steps = 0
    _idles = False

    def answer(self, line: bytes) -> bytes:
        if self._idles:
            self._idles = False
            return self._tag + b" OK done\r\n"
        if self._steps:
            if not self._challenged(line, self._steps):
                return b"+ UGFzc3dvcmQ6\r\n"
            self._steps = 0
            return self._tag + b" OK welcome\r\n"
        self._tag, _, rest = line.partition(b" ")
        command, _, given = rest.partition(b" ")
        command = command.upper()
        if command == b"UID":
            command, _, given = given.partition(b" ")
            command = command.upper()
        told = self._told(command, given)
        return told if told.startswith(b"+") else told + self._tag + b" OK done\r\n"

    def _told(self, command: bytes, given: bytes) -> bytes:
        match command:
            case b"LOGIN":
                self._login([given])
            case b"AUTHENTICATE":
                way, _, first = given.partition(b" ")
                self._asked, self._steps = [], 2 if way.upper() == b"LOGIN" else 1
                if first and self._challenged(first, self._steps):
                    self._steps = 0
                    return b""
                return b"+ \r\n"
            case b"CAPABILITY":
                start = b"" if self._secure else b" STARTTLS"
                return b"* CAPABILITY IMAP4rev1 UIDPLUS AUTH=PLAIN AUTH=LOGIN" + start + b"\r\n"
            case b"STARTTLS":
                self.upgrades = self._secure = True
            case b"FETCH":
                return _fetched(given)
            case b"IDLE":
                self._idles = True
                return b"+ idling\r\n"
            case b"LOGOUT":
                self.ended = True
        return _BOXES.get(command, b"").replace(b"{box}", given.partition(b" (")[0])


class _Smtp(_Dialogue):
    name = "SMTP"
    greeting = b"220 stand-in ESMTP\r\n"
    _steps = 0
    _reads = False

    def answer(self, line: bytes) -> bytes:
        if self._reads:
            self._reads = line != b"."
            return b"" if self._reads else b"250 taken\r\n"
        if self._steps:
            if not self._challenged(line, self._steps):
                return b"334 UGFzc3dvcmQ6\r\n"
            self._steps = 0
            return b"235 welcome\r\n"
        command, _, given = line.partition(b" ")
        match command.upper():
            case b"EHLO":
                start = b"" if self._secure else b"250-STARTTLS\r\n"
                return b"250-stand-in\r\n250-8BITMIME\r\n" + start + b"250 AUTH PLAIN LOGIN\r\n"
            case b"STARTTLS":
                self.upgrades = self._secure = True
                return b"220 go on\r\n"
            case b"AUTH":
                way, _, first = given.partition(b" ")
                self._asked, self._steps = [], 2 if way.upper() == b"LOGIN" else 1
                if first and self._challenged(first, self._steps):
                    self._steps = 0
                    return b"235 welcome\r\n"
                return b"334 " + (b"UGFzc3dvcmQ6" if first else b"VXNlcm5hbWU6") + b"\r\n"
            case b"DATA":
                self._reads = True
                return b"354 go on\r\n"
            case b"QUIT":
                self.ended = True
                return b"221 bye\r\n"
        return b"250 OK\r\n"


def _fetched(given: bytes) -> bytes:
    """Return what a FETCH asks of the one message: facts by their names, and parts of its text."""
    wanted = given.upper()
    said = [b"UID 1"]
    said += [
        name + b" " + fact
        for name, fact in _FACTS.items()
        if name != b"UID" and re.search(rb"\b" + re.escape(name) + rb"\b", wanted)
    ]
    head, _, body = _MESSAGE.partition(b"\r\n\r\n")
    for part in _WANTED.finditer(given.upper()):
        section = part[1] if part[1] is not None else part[0]
        text = head + b"\r\n\r\n" if b"HEADER" in section else body
        if section in {b"", b"RFC822"}:
            text = _MESSAGE
        name = part[0].replace(b".PEEK", b"")
        said.append(name + b" {%d}\r\n" % len(text) + text)
    return b"* 1 FETCH (" + b" ".join(said) + b")\r\n"


def _decoded(text: bytes) -> str:
    """Return what a base64 answer of a login says, with what stands between its parts told apart."""
    try:
        raw = base64.b64decode(text, validate=False)
    except ValueError:
        raw = text
    return raw.replace(b"\0", b"\n").decode("utf-8", "replace")
