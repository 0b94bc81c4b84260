"""Whether a port is encrypted: for the errors of those who took it for what it is not."""

from __future__ import annotations

import socket
import ssl

PATIENCE = 1.0
"""Seconds that a server has for each step of a greeting."""


def is_encrypted(host: str, port: int) -> bool:
    """Ask whether a server speaks TLS on a port, whatever its certificate says; one that says nothing does not.

    To be asked once a connection has failed, so that a healthy one costs nothing. Nothing is sent but a greeting.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # It is not content with us, and says so in its language.
    except (OSError, ValueError):  # The latter for a host that no certificate could name.
        return False
