"""Mail to customers and users, over SMTP.

Owns the connection and the form of a message. Requests hand their mail over and do not wait, so
that neither a slow server nor its refusal shows in an answer; what cannot be sent is tried again
and then logged, without its text, which may hold a token.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr

import tenacity

from api.clock import Clock
from api.settings import Settings

TIMEOUT_S = 20
TRIES = 3

log = logging.getLogger(__name__)


class MailError(Exception):
    """A message that was not taken by the server. is_final: it never will be."""

    def __init__(self, message: str, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


class Mailer:
    """Send mail as the settings say."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._later = ThreadPoolExecutor(1, "mail")

    @property
    def is_enabled(self) -> bool:
        """Tell whether there is a server to send by."""
        return self._settings.smtp_enabled

    def send(self, to: str, subject: str, text: str, message_id: str | None = None) -> None:
        """Send a message; raises MailError.

        message_id: the part before the @ for a message that other hosts may send too, so that
        mailboxes recognise the second as the first.
        """
        try:
            message = self._message(to, subject, text, message_id)
            with self._connection() as server:
                server.send_message(message)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise MailError(f"{type(error).__name__}: {error}", _is_final(error)) from error

    def send_later(self, to: str, subject: str, text: str) -> None:
        """Send a message in the background, and try again if it is not taken."""
        self._later.submit(self._try_to_send, to, subject, text)

    def drain(self) -> None:
        """Wait until what was handed over is sent or given up."""
        self._later.submit(lambda: None).result()

    def _try_to_send(self, to: str, subject: str, text: str) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(MailError),
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_exponential(multiplier=0.5, max=5),
            reraise=True,
        )
        try:
            retrying(self.send, to, subject, text)
        except MailError as error:
            log.error("mail %r was not sent: %s", subject, error)

    def _message(self, to: str, subject: str, text: str, message_id: str | None) -> EmailMessage:
        sender = Address(addr_spec=parseaddr(self._settings.smtp_from or "")[1])
        message = EmailMessage()
        message["From"] = self._settings.smtp_from
        message["To"] = Address(addr_spec=to)
        message["Subject"] = subject
        message["Date"] = format_datetime(self._clock())
        made = f"<{message_id}@{sender.domain}>" if message_id else make_msgid(domain=sender.domain)
        message["Message-ID"] = made
        message.set_content(text)
        return message

    def _connection(self) -> smtplib.SMTP:
        settings = self._settings
        host, context = settings.smtp_host or "", ssl.create_default_context()
        server: smtplib.SMTP
        if settings.smtp_security == "tls":
            server = smtplib.SMTP_SSL(host, settings.smtp_port, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(host, settings.smtp_port, timeout=TIMEOUT_S)
        try:
            if settings.smtp_security == "starttls":
                server.starttls(context=context)
            if settings.smtp_user:
                server.login(settings.smtp_user, settings.smtp_password or "")
        except BaseException:
            server.close()
            raise
        return server


def _is_final(error: Exception) -> bool:
    """Tell a message or an address that is refused for good (5xx) from a server that is not up."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    refused = isinstance(error, smtplib.SMTPSenderRefused | smtplib.SMTPDataError)
    return (refused and error.smtp_code >= 500) or (  # type: ignore[attr-defined]
        isinstance(error, ValueError) and not isinstance(error, OSError)
    )
