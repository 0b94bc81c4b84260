"""The serializer: writes and reads what Symfony Messenger's own one for JSON does."""

from __future__ import annotations

from collections.abc import Mapping

from postbus import stamps
from postbus.envelope import Envelope
from postbus.serialization import Encoded, JsonSerializer, TypeRegistry, Undecodable
from postbus.stamps import Stamp
from postbus_symfony.bodies import Codecs, Rename, camel_case
from postbus_symfony.headers import Headers

__all__ = ["SymfonySerializer", "camel_case"]


class Came(Stamp):
    """The headers that a message came with: what a serializer leaves for itself, to write them again."""

    headers: Mapping[str, str]


class SymfonySerializer:
    """The `Serializer` for a queue that is shared with a Symfony application, which uses its own one for JSON.

    Stamps that Symfony has too travel as Symfony's; others of ours in headers that it ignores. What was
    received and is sent on is written as it came: the body, and each stamp of Symfony's.

    ``rename`` returns what a field of a message is called there, as `camel_case` does. ``buses`` has the
    names of buses there by their names here; messages of others are handled on the default bus.
    ``snake_case_stamps`` is for an application that renames all properties for JSON, Symfony's own too.
    """

    def __init__(
        self,
        types: TypeRegistry,
        *,
        rename: Rename | None = None,
        buses: Mapping[str, str] | None = None,
        snake_case_stamps: bool = False,
    ) -> None:
        self._messages = JsonSerializer(types, codec_for=Codecs(rename).codec_for)
        self._headers = Headers(buses or {}, snake_case=snake_case_stamps)
        self._verifies = types.verifies

    def encode(self, envelope: Envelope) -> Encoded:
        """Return the envelope as Symfony reads it; raise `SerializationError` if it cannot be written."""
        message = envelope.message
        if type(message) is Undecodable:
            return Encoded(message.body, self._headers.keep(envelope, message.headers))
        verify = self._verifies and not envelope.has(stamps.ErrorDetails)  # What has failed is kept, whatever it is.
        body, headers = self._messages.encode_message(message, envelope.last(stamps.Encoded), verify=verify)
        came = envelope.last(Came)
        headers.update(self._headers.write(envelope, {} if came is None else came.headers, verify=verify))
        return Encoded(body, headers)

    def decode(self, body: bytes, headers: Mapping[str, str]) -> Envelope:
        """Return the envelope; `Undecodable` says why, and where in the body, when it cannot be read."""
        known, unknown, problem = self._headers.read(headers)
        if problem is None:
            message, problem = self._messages.decode_message(body, headers)
            if problem is None:
                known += (stamps.Encoded(body, message, self._messages), Came(headers))
                if unknown:
                    known.append(stamps.UnknownHeaders(unknown))
                return Envelope(message, tuple(known))
            problem = _explained(problem, body, headers)
        return Envelope(Undecodable(body, dict(headers), problem), tuple(known))


def _explained(problem: str, body: bytes, headers: Mapping[str, str]) -> str:
    """Return why a message cannot be read; what Symfony wrote otherwise than in JSON is called by its name."""
    if "type" not in headers and body.lstrip().startswith((b"O:", b"Tzo")):  # The latter is the same in base64.
        return (
            "it was written by PHP's own serializer, which only PHP can read; set the transport's serializer to "
            "messenger.transport.symfony_serializer there"
        )
    content_type = headers.get("Content-Type", "")
    if content_type and "json" not in content_type:
        return f"it is {content_type}, of which only JSON can be read here"
    return problem
