"""The client's errors in our own words: what happened, where, and what to do."""

from __future__ import annotations

import greenstalk

from postbus.errors import ConnectionLost, TransportError

ANSWERS = (
    greenstalk.BuriedError,
    greenstalk.DeadlineSoonError,
    greenstalk.DrainingError,
    greenstalk.InternalError,
    greenstalk.JobTooBigError,
    greenstalk.NotFoundError,
    greenstalk.OutOfMemoryError,
    greenstalk.TimedOutError,
)
"""Answers to one command, after which the next one is answered as ever."""

BROKEN = (greenstalk.Error, AssertionError, ValueError, OSError)
"""What else the client raises: of a reply that is cut off, an AssertionError; of one that makes no sense, any."""


def translate(error: BaseException, where: str) -> TransportError:
    """Return the error that a connection raises in place of one of the client's."""
    match error:
        case TransportError():
            return error
        case greenstalk.DrainingError():
            return TransportError(f"{where} takes no new messages, as it was told to drain. Restart it.")
        case greenstalk.OutOfMemoryError() | greenstalk.BuriedError():
            return TransportError(f"{where} has no memory left, or no room for its log. Make room.")
        case greenstalk.InternalError():
            return TransportError(f"{where} has failed in itself: INTERNAL_ERROR. Look into its own log.")
        case greenstalk.UnknownResponseError():
            return ConnectionLost(f"{where} has answered something else than it was asked")
        case greenstalk.BeanstalkdError():
            return ConnectionLost(f"{where} has not understood what it was asked: {type(error).__name__}")
        case AssertionError() | ValueError():
            return ConnectionLost(f"{where} has cut the connection, in the middle of an answer")
        case _:
            text = " ".join(str(error).split()).removesuffix(".")
            return ConnectionLost(f"{where} cannot be reached: {text or type(error).__name__}")
