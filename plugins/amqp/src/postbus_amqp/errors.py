"""Errors of the client library, and of the broker, in words of our own."""

from __future__ import annotations

import re
import ssl
from typing import Any

from postbus.errors import ConnectionLost, TransportError
from postbus_amqp.options import Settings
from postbus_amqp.untyped import exceptions

ACCESS_REFUSED, CONNECTION_FORCED, NOT_FOUND, PRECONDITION_FAILED, NOT_ALLOWED = 403, 320, 404, 406, 530
RESOURCE_LOCKED = 405
"""Codes with which a broker closes a channel or a connection."""


class Refused(TransportError):
    """The broker closed a channel because of what was done on it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text if text.endswith(".") else f"{text}.")
        self.code = code


class Unheard(ConnectionLost):
    """Something listens there, and does not answer as a broker does, or not at all."""


def again(error: TransportError) -> TransportError:
    """Return the same error anew, since each one that is raised gets a traceback of its own."""
    return Refused(error.code, str(error)) if isinstance(error, Refused) else type(error)(str(error))


def explain(error: Any, settings: Settings) -> TransportError:
    """Return why a connection could not be opened: lost, or refused for a reason that stays."""
    cause = _innermost(error)
    if (refusal := _refusal_in(cause)) is not None:
        if re.search(r"vhost .* not found", refusal):
            return TransportError(
                f"{settings} has no such vhost: {refusal} Make it, or correct the DSN. Its path is a vhost and an "
                "exchange; %2f/orders is the exchange orders of the vhost /."
            )
        return TransportError(
            f"{settings} refuses the user {settings.options.user!r}: {refusal} "
            "Correct user, password or vhost in the DSN."
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TransportError(
            f"The certificate of {settings} is not trusted: {cause.verify_message}. "
            "Name the file or folder of its CA as option 'cacert'."
        )
    if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return TransportError(f"{settings} does not encrypt on this port. Write amqp://, or name the port that does.")
    kind = Unheard if isinstance(cause, exceptions.AMQPError) else ConnectionLost
    return kind(f"{settings} cannot be reached: {text_of(cause)}. Check that it runs, and the DSN.")


def text_of(error: BaseException) -> str:
    """Return what an error says, in one line without a full stop."""
    text = getattr(error, "reply_text", None) or str(error) or type(error).__name__
    for pattern, kept in _CLIENTS_OWN.items():
        text = re.sub(pattern, kept, str(text))
    return " ".join(str(text).split()).rstrip(".")


_CLIENTS_OWN = {
    r"^\[Errno -?\d+\] ": "",
    r"(AMQP handshake)'.*": r"\1",
    r"^\w+: \('(.*)',\)$": r"\1",
}
"""What the client adds for whoever mends the client: numbers, sockets, the names of its classes."""


def _innermost(error: Any) -> Any:
    """Return what an error of pika's wraps."""
    while True:
        inner = getattr(error, "exceptions", None) or [getattr(error, "exception", None)]
        if not isinstance(inner[-1], BaseException):
            return error
        error = inner[-1]


def _refusal_in(error: Any) -> str | None:
    """Return what the broker said if it let nobody in, which it will not the next time either; else None."""
    told = re.search(r"\((\d+)\) ['\"](.*)['\"]", repr(error))
    if told is None or int(told[1]) not in (ACCESS_REFUSED, NOT_ALLOWED) or "limit" in told[2]:
        return None
    text = told[2].strip("'\"")
    return text if text.endswith(".") else f"{text}."
