"""A server's TLS certificate and its key, from two files that may be renewed while it runs."""

from __future__ import annotations

import logging
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from rayotel.errors import UsageError
from rayotel.logs import Failing, log_event

# UTCTime and GeneralizedTime of a certificate's validity: not before, not after
_VALIDITY = re.compile(rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)" * 2)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

logger = logging.getLogger(__name__)
_State = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate chain and its key in PEM, proven when it is made. Raises UsageError."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._paths = (certificate, key)
        self._state = self._look()
        self.context = _context(certificate, key)
        self.expires = _expiry(certificate)
        self._failing = Failing()
        self._tell_expiry()

    def _tell_expiry(self) -> None:
        if self.expires is not None and self.expires < datetime.now(UTC):
            log_event(
                logger, logging.WARNING, "the TLS certificate has expired: clients refuse it",
                expired=self.expires.isoformat(),
            )  # fmt: skip

    def renew(self) -> None:
        """Use what the files hold now, if that is another pair and a sound one."""
        state = self._look()
        if state == self._state:
            return
        try:
            context, expires = _context(*self._paths), _expiry(self._paths[0])
        except UsageError as error:
            # files are replaced one after the other: the next look may find both
            if self._failing.begin(error.message):
                log_event(
                    logger, logging.WARNING, "the TLS certificate changed and cannot be used",
                    reason=error.message,
                )  # fmt: skip
            return
        self._failing.end()
        self._state, self.context, self.expires = state, context, expires
        text = expires.isoformat() if expires is not None else None
        log_event(logger, logging.INFO, "the TLS certificate was renewed", expires=text)
        self._tell_expiry()

    def _look(self) -> _State:
        """What tells whether the files are still the same."""
        found = []
        for path in self._paths:
            try:
                stat = path.stat()
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What serves the certificate. No error shows a path: it may be a secret in a wrong place."""
    for setting, path in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read the file of '{setting}': {error.strerror}",
                hint="it must be a file that the server's user may read",
            ) from None
        if b"-----BEGIN " not in text:
            raise UsageError(
                f"the file of '{setting}' is not PEM", hint="openssl x509 and openssl pkey convert"
            )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    is_encrypted = False

    def password() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        return ""

    try:
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, ValueError, OSError) as error:
        if is_encrypted:
            raise UsageError(
                "the key of 'tls_key' is encrypted",
                hint="decrypt it for the server: openssl pkey -in KEY -out PLAIN_KEY",
            ) from None
        reason = getattr(error, "reason", None) or "it cannot be read"
        if reason == "KEY_VALUES_MISMATCH":
            raise UsageError(
                "the key of 'tls_key' is not that of 'tls_certificate'",
                hint="put the server's certificate first, before its issuers'",
            ) from None
        raise UsageError(
            f"'tls_certificate' and 'tls_key' are no certificate with its key: {reason}",
            hint="tls_certificate: the server's certificate first, then its issuers', in PEM",
        ) from None
    return context


def _expiry(certificate: Path) -> datetime | None:
    """When the first certificate of a file ends; None where that does not show."""
    try:
        found = _PEM.search(certificate.read_text("ascii", "replace"))
        der = ssl.PEM_cert_to_DER_cert(found[0]) if found else b""
    except (OSError, ValueError):
        return None
    times = _VALIDITY.search(der)
    if times is None:
        return None
    digits = (times[3] or times[4]).decode()
    if len(digits) == 12:  # RFC 5280: from 1950 to 2049
        digits = ("19" if digits >= "50" else "20") + digits
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
