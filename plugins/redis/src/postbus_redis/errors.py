"""The client's errors in our own words: what happened, where, and what to do."""

from __future__ import annotations

import re
import socket
import ssl

from redis import exceptions as client

from postbus.errors import ConnectionLost, TransportError
from postbus.tls import PATIENCE

DOES_NOT_ENCRYPT = "does not encrypt on this port. Write redis://, or name the port that does."

HARMLESS = ("invalid username-password pair", "Authentication required", "AUTH <password> called without")
"""How those texts about a login begin that hold nothing of it."""


_ADDRESS = re.compile(r"^Error -?\d+ connecting to \S+\. (?=\S)")
"""How the client begins to say why it reaches nobody."""


def translate(error: BaseException, where: str) -> TransportError:
    """Return the error that a connection raises in place of one of the client's."""
    # Of a command that it does not know, such as an AUTH that was renamed, Redis repeats what came with it.
    text = " ".join(str(error).split()).partition(", with args beginning with")[0].rstrip(".?")
    text, begins = _ADDRESS.subn("", text)  # It stands in ``where``.
    match error:
        case TransportError():
            return error
        case client.AuthenticationError() | client.AuthorizationError():
            reason = f": {text}" if text.startswith(HARMLESS) else ""
            return TransportError(f"{where} refuses the user or the password{reason}. Correct them in the DSN.")
        case client.BusyLoadingError():
            return ConnectionLost(f"{where} is still loading its data")
        case client.ReadOnlyError():
            return ConnectionLost(f"{where} is a replica, which takes no messages. Name its master, or Sentinels")
        case client.AskError():  # which MovedError is, too
            return ConnectionLost(
                f"{where} is a node of a Redis Cluster, of which another node has this stream. Name several nodes, or "
                "set cluster=true"
            )
        case client.TryAgainError() | client.ClusterDownError():
            return ConnectionLost(f"{where} cannot serve this stream at the moment: {text}")
        case client.OutOfMemoryError():
            return TransportError(f"{where} is full and takes no messages. Free memory, or raise its maxmemory.")
        case client.NoPermissionError():
            return TransportError(f"{where} denies the user of the DSN a permission: {text}.")
        case client.NoScriptError():
            return ConnectionLost(f"{where} has forgotten the scripts that this connection loaded")
        case client.InvalidResponse():
            return TransportError(f"{where} does not speak the protocol of Redis. Check the host and the port.")
        case client.ResponseError():
            return _refused(text, where)
        case client.RedisError() | OSError() if _is_certificate_problem(error):
            return TransportError(f"{where} has a certificate that cannot be verified: {text}. See option 'ssl'.")
        case client.RedisError() | OSError() if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
            return TransportError(f"{where} {DOES_NOT_ENCRYPT}")
        case _:
            remedy = ". Check that it runs, and the DSN." if begins else ""
            return ConnectionLost(f"{where} cannot be reached: {text or type(error).__name__}{remedy}")


def is_unheard(error: BaseException) -> bool:
    """Say whether a server cannot be reached, or does not answer, or not so that it can be understood."""
    is_of_the_link = type(error) in (client.ConnectionError, client.TimeoutError) or isinstance(error, OSError)
    return is_of_the_link and not _is_certificate_problem(error)


def answers_plainly(host: str, port: int) -> bool:
    """Ask a server that does not answer to TLS whether it does without."""
    try:
        with socket.create_connection((host, port), PATIENCE) as plain:
            plain.sendall(b"PING\r\n")
            return plain.recv(1) in (b"+", b"-")
    except OSError:
        return False


def is_gone(error: object) -> bool:
    """Say whether a reply means that the stream, or its group, is not there."""
    return isinstance(error, client.ResponseError) and (
        "NOGROUP" in str(error) or "no such key" in str(error) or "key no longer exists" in str(error)
    )


def _refused(text: str, where: str) -> TransportError:
    if text.startswith(("BUSY ", "MISCONF", "NOREPLICAS")):
        return ConnectionLost(f"{where} does not work at the moment: {text}")
    if text.startswith("UNBLOCKED"):
        return ConnectionLost(f"{where} is no longer a master")
    if text.startswith("WRONGTYPE"):
        return TransportError(f"{where} has a key of another type where the stream or its delayed set should be.")
    return TransportError(f"{where} refuses: {text}.")


def _is_certificate_problem(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
