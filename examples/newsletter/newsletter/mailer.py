"""Delivers mail over SMTP, and tells apart the three ways in which that can fail."""

from __future__ import annotations

import smtplib
import socket
import threading
import time
from email.message import EmailMessage

from postbus import Recoverable, Unrecoverable


class Mailer:
    """Delivers mail to one server; each thread keeps its connection to it from one mail to the next."""

    TIMEOUT = 10.0
    """Seconds for which an answer of the server is waited for."""

    FRESH = 5.0
    """Seconds without a mail after which a connection is tried out before it is used."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._own = threading.local()

    def deliver(self, mail: EmailMessage) -> None:
        """Return when the server has taken the mail.

        Raises `Unrecoverable` if the server will never take it, so that it is buried; smtplib's error if it
        does not take it now, so that the retry policy decides; `Recoverable` if there is no server to ask,
        which is no fault of this mail, so that it is tried until there is one.
        """
        try:
            self._connection().send_message(mail)
        except smtplib.SMTPRecipientsRefused as refused:
            [(code, text)] = refused.recipients.values()
            if code >= 500:
                raise Unrecoverable(f"{mail['To']} was refused: {code} {text!r}") from refused
            raise
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as refused:
            if refused.smtp_code >= 500:
                raise Unrecoverable(f"A mail was refused: {refused.smtp_code} {refused.smtp_error!r}") from refused
            raise
        except smtplib.SMTPNotSupportedError as error:  # An address with umlauts, to a server of the old kind.
            raise Unrecoverable(f"{mail['To']} cannot be reached: {error}") from error
        except OSError as error:  # Which smtplib's other errors are as well.
            self.close()
            raise Recoverable(f"The mail server {self._server} did not answer: {error}") from error
        self._own.used_at = time.monotonic()

    def close(self) -> None:
        """Close the connection of this thread; the next mail opens another."""
        connection: smtplib.SMTP | None = getattr(self._own, "connection", None)
        self._own.connection = None
        if connection is not None:
            connection.close()

    def _connection(self) -> smtplib.SMTP:
        connection: smtplib.SMTP | None = getattr(self._own, "connection", None)
        if connection is not None and time.monotonic() - self._own.used_at > self.FRESH:
            try:
                connection.noop()
            except OSError:  # Servers hang up on who is silent for long.
                self.close()
                connection = None
        if connection is None:
            host, _, port = self._server.rpartition(":")
            connection = smtplib.SMTP(host, int(port), local_hostname=socket.gethostname(), timeout=self.TIMEOUT)
            self._own.connection, self._own.used_at = connection, time.monotonic()
        return connection
