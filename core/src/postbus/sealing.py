"""Serializers around another one: `signed` proves who wrote a message, `encrypted` hides what is in it as well.

Both cover the body and all headers, and open a message before any of it is decoded.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError
from postbus.serialization import (
    Encoded,
    JsonSerializer,
    Serializer,
    SerializerFactory,
    TypeRegistry,
    Undecodable,
    read_kept,
)
from postbus.text import PACKED, unpacked

SIGNATURE = "X-Postbus-Signature"
"""The header with the name of the key, and the HMAC-SHA256 in hexadecimal."""

SIGNED = "X-Postbus-Signed"
"""The header with all that are signed, as JSON in ASCII."""

ENCRYPTED = "X-Postbus-Encrypted"
"""The header with the name of the key."""

KEPT = "X-Postbus-Kept"
"""Inside a seal: what is in it was not readable here when it was sealed, and has a seal of its own, if any."""

SHORTEST_KEY = 32
"""Bytes of a key for a signature: as long as the signature."""

_SHOWN = ("type", "Content-Type")
"""The headers that stand outside too, for people and their tools; what is read is what is inside."""


class Seal(Protocol):
    """What closes a message and opens it again."""

    def close(self, encoded: Encoded) -> Encoded:
        """Return what is to lie on the broker."""
        ...

    def open(self, body: bytes, headers: Mapping[str, str]) -> Encoded | str:
        """Return what was closed; or why that cannot be, as a clause."""
        ...


def signed(
    keys: Mapping[str, str | bytes], serializer: Callable[[TypeRegistry], Serializer] = JsonSerializer
) -> SerializerFactory:
    """Return what makes a serializer for a transport that signs what another one writes, and reads only what is signed.

    ``keys`` are secrets of at least 32 bytes by name; the first signs, and what any of them has signed is read. To
    change it, add the new one behind the old everywhere, then put it first everywhere, then take the old one out.
    """
    seal = _Signature(keys)
    return lambda types: Sealed(serializer(types), seal)


def encrypted(
    keys: Mapping[str, str | bytes], serializer: Callable[[TypeRegistry], Serializer] = JsonSerializer
) -> SerializerFactory:
    """Return what makes a serializer that encrypts what another one writes, headers too, but for the name of the type.

    ``keys`` are those of `cryptography.fernet.Fernet`, by name, used and changed as those of `signed`. Whoever has none
    of them can neither read a message nor write one.
    """
    seal = _Encryption(keys)
    return lambda types: Sealed(serializer(types), seal)


class Sealed:
    """A serializer in another one's place, which sees no message that was not opened.

    What it cannot open is an `Undecodable`, as what the other one cannot read.
    """

    def __init__(self, serializer: Serializer, seal: Seal) -> None:
        self._serializer = serializer
        self._seal = seal

    def encode(self, envelope: Envelope) -> Encoded:
        encoded = self._serializer.encode(envelope)
        if isinstance(envelope.message, Undecodable):
            # That it is sealed now says that we have put on its new stamps, and nothing about what came.
            encoded = Encoded(encoded.body, encoded.headers | {KEPT: "1"})
        return self.seal(encoded)

    def decode(self, body: bytes, headers: Mapping[str, str]) -> Envelope:
        opened = self.opened(body, headers)
        if isinstance(opened, str):
            return Envelope(Undecodable(body, dict(headers), opened))
        if KEPT in opened.headers:
            came = {name: value for name, value in opened.headers.items() if name != KEPT}
            return read_kept(opened.body, unpacked(came) if PACKED in came else came, self)
        envelope = self._serializer.decode(*opened)
        if isinstance(envelope.message, Undecodable):  # It has to keep what really came.
            unread = Undecodable(body, dict(headers), envelope.message.reason)
            return Envelope(unread, envelope.stamps)
        return envelope

    def seal(self, encoded: Encoded) -> Encoded:
        """Return a message closed."""
        closed = self._seal.close(encoded)
        shown = {name: encoded.headers[name] for name in _SHOWN if name in encoded.headers}
        return Encoded(closed.body, shown | closed.headers)

    def opened(self, body: bytes, headers: Mapping[str, str]) -> Encoded | str:
        """Return what is in a seal; or why it cannot be opened, as a clause."""
        return self._seal.open(body, headers)


class _Signature:
    def __init__(self, keys: Mapping[str, str | bytes]) -> None:
        self._keys = {name: key.encode() if isinstance(key, str) else bytes(key) for name, key in keys.items()}
        self._name = _first_name(self._keys)
        for name, key in self._keys.items():
            if len(key) < SHORTEST_KEY:
                raise ConfigurationError(
                    f"The key {name!r} has {len(key)} bytes, and one for signatures has {SHORTEST_KEY} or more. Make "
                    "one: python -c 'import secrets; print(secrets.token_hex(32))'"
                )

    def close(self, encoded: Encoded) -> Encoded:
        text = json.dumps(encoded.headers)
        signature = self._signature(self._name, text, encoded.body)
        return Encoded(encoded.body, {SIGNED: text, SIGNATURE: f"{self._name}:{signature}"})

    def open(self, body: bytes, headers: Mapping[str, str]) -> Encoded | str:
        name, _, signature = headers.get(SIGNATURE, "").rpartition(":")
        if not name:
            return "it is not signed"
        if name not in self._keys:
            return f"it is signed with the key {name!r}, which is not known here"
        text = headers.get(SIGNED, "")
        if not hmac.compare_digest(signature.encode(), self._signature(name, text, body).encode()):
            return "its signature does not fit"
        return Encoded(body, cast("dict[str, str]", json.loads(text)))

    def _signature(self, name: str, text: str, body: bytes) -> str:
        # With their lengths, so that nothing can be moved from one part into the next.
        parts = [part.encode(errors="surrogatepass") for part in (SIGNATURE, name, text)]
        content = b"".join(b"%d:%b" % (len(part), part) for part in [*parts, body])
        return hmac.digest(self._keys[name], content, "sha256").hex()


class _Encryption:
    def __init__(self, keys: Mapping[str, str | bytes]) -> None:
        try:
            from cryptography.fernet import Fernet, InvalidToken  # noqa: PLC0415  Only who encrypts has it.
        except ModuleNotFoundError:
            raise ConfigurationError(
                'encrypted() needs cryptography. Install it: pip install "postbus[encryption]"'
            ) from None
        self._keys: dict[str, Any] = {}
        self._wrong: type[Exception] = InvalidToken
        for name, key in keys.items():
            try:
                self._keys[name] = Fernet(key)
            except ValueError as error:
                raise ConfigurationError(
                    f"The key {name!r} is none of Fernet. Make one: python -c 'from cryptography.fernet import Fernet; "
                    "print(Fernet.generate_key().decode())'"
                ) from error
        self._name = _first_name(self._keys)

    def close(self, encoded: Encoded) -> Encoded:
        content = json.dumps(encoded.headers).encode() + b"\n" + encoded.body
        token: bytes = self._keys[self._name].encrypt(content)
        return Encoded(token, {ENCRYPTED: self._name})

    def open(self, body: bytes, headers: Mapping[str, str]) -> Encoded | str:
        name = headers.get(ENCRYPTED)
        if name is None:
            return "it is not encrypted"
        if name not in self._keys:
            return f"it is encrypted with the key {name!r}, which is not known here"
        try:
            content: bytes = self._keys[name].decrypt(body)
        except self._wrong:
            return "it was not encrypted with its key, or has been changed since"
        text, _, inside = content.partition(b"\n")
        return Encoded(inside, cast("dict[str, str]", json.loads(text)))


def _first_name(keys: Mapping[str, object]) -> str:
    for name in keys:
        if not name.isascii() or not name.isprintable() or not name.strip():
            raise ConfigurationError(f"{name!r} is no name of a key. Take letters of ASCII, such as '2026-12'.")
    try:
        return next(iter(keys))
    except StopIteration:
        raise ConfigurationError("There is no key. Give one by its name, such as {'2026-12': ...}.") from None
