"""How to connect: addresses, login, encryption and patience, as the client library wants them."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Any

from postbus.errors import TransportError
from postbus_amqp.options import Settings
from postbus_amqp.untyped import pika

CONNECT_TIMEOUT = 10.0
"""Seconds, where the options say 0, which is no limit in PHP."""

EXTERNAL = 1
"""The number by which PHP's extension knows the method to log in with a certificate."""


def parameters_for(settings: Settings, name: str, purpose: str) -> list[Any]:
    """Return how to connect, for each of the broker's addresses."""
    options = settings.options
    patience = options.connect_timeout or CONNECT_TIMEOUT
    shown = options.connection_name or f"{name} {socket.gethostname()}:{os.getpid()}"
    parameters: list[Any] = []
    for host, port in settings.addresses:
        one = pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=options.vhost,
            credentials=(
                pika.credentials.ExternalCredentials()
                if options.sasl_method == EXTERNAL
                else pika.PlainCredentials(options.user, options.password)
            ),
            heartbeat=options.heartbeat,
            socket_timeout=patience,
            stack_timeout=patience,
            client_properties={"connection_name": f"{shown} ({purpose})", "product": "Postbus"},
        )
        if options.frame_max:
            one.frame_max = options.frame_max
        if options.channel_max:
            one.channel_max = options.channel_max
        if settings.is_encrypted:
            one.ssl_options = pika.SSLOptions(_tls(settings), host)
        parameters.append(one)
    return parameters


def _tls(settings: Settings) -> ssl.SSLContext:
    options = settings.options
    for name, path in {"cacert": options.cacert, "cert": options.cert, "key": options.key}.items():
        if path is not None and not Path(path).exists():
            shown = "" if name == "key" else f": {path!r}"  # Somebody may have put the key itself there.
            raise TransportError(f"Option {name!r} of {settings} names what is not there{shown}. Correct the path.")
    try:
        is_folder = options.cacert is not None and Path(options.cacert).is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else options.cacert, capath=options.cacert if is_folder else None
        )
        if options.cert is not None:
            context.load_cert_chain(options.cert, options.key)
    except OSError as error:
        raise TransportError(
            f"The certificates for {settings} cannot be read: {error.strerror or error}. "
            "Look at the options 'cacert', 'cert' and 'key'."
        ) from error
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
