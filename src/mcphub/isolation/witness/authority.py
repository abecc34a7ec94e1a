"""A throw-away certificate authority that vouches for any name, to one server under check only.

Its key never leaves memory and only that server's sandbox is told to trust it. Valid for a day.
"""

import ipaddress
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mcphub.ids import system_clock

_VALID: Final = timedelta(days=1)
_KEPT: Final = 512
TRUST_VARIABLES: Final = (
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
)
"""Variables by which runtimes and libraries are told of a further authority."""


class Authority:
    """Makes a TLS context for each name that a client asks for.

    Args:
        directory: Where certificates lie; `ca/ca.pem` is for the server under check to read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("Stand-in of an isolation check")
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = directory / "ca" / "ca.pem"
        self.ca_file.parent.mkdir(parents=True, exist_ok=True)
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        for path, mode in ((self.ca_file.parent, 0o755), (self.ca_file, 0o644)):
            path.chmod(mode)

    def server_context(self) -> ssl.SSLContext:
        """Return a context that takes the certificate of the name in the ClientHello."""
        context = self._context("stand-in.invalid")

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name:
                connection.context = self._context(name)

        context.sni_callback = choose
        return context

    def _context(self, host: str) -> ssl.SSLContext:
        with self._lock:
            known = self._contexts.get(host)
            if known is None:
                if len(self._contexts) >= _KEPT:
                    self._contexts.clear()
                known = self._contexts[host] = self._made(host)
            return known

    def _made(self, host: str) -> ssl.SSLContext:
        try:
            general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            general = x509.DNSName(host)
        leaf = (
            self._builder(_name(host[:64]), self._leaf_key.public_key())
            .add_extension(x509.SubjectAlternativeName([general]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        chain = self._directory / "leaf.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(
            leaf.public_bytes(serialization.Encoding.PEM)
            + self._leaf_key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(chain)
        chain.unlink()
        return context

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.fromtimestamp(system_clock(), UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + _VALID)
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
