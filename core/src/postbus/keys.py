"""Which field of a message is its key: what is handled one after the other, in order, has the same one."""

from __future__ import annotations

from functools import cached_property
from inspect import getattr_static
from typing import cast

from postbus import stamps
from postbus.display import sentence
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, SerializationError, describe, qualified_name
from postbus.spelling import nearest
from postbus.verification import names_of_fields


class Keys:
    """The fields that are keys, by the class of message; a class without one has that of its nearest ancestor."""

    def __init__(self) -> None:
        self._fields: dict[type, str] = {}
        self._found: dict[type, str | None] = {}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def add(self, kind: type, field: str) -> None:
        """Let a field, or a property, be the key of a class; raise `ConfigurationError` if it has none of that name."""
        if not isinstance(cast(object, field), str):
            raise ConfigurationError(
                f"The key of {qualified_name(kind)} is {field!r}, which is no name of a field. For a key that is made "
                "of several fields, name a property."
            )
        names = names_of_fields(kind) or ()
        if field not in names and not isinstance(getattr_static(kind, field, None), property | cached_property):
            meant = nearest(field, names)
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise ConfigurationError(
                f"{qualified_name(kind)} has no field {field!r} that could be its key.{hint} Fields: "
                f"{', '.join(names) or 'none'}."
            )
        self._fields[kind] = field
        self._found.clear()

    def field_for(self, kind: type) -> str | None:
        """Return the name of the field that is the key of a class; None if it has none."""
        if kind not in self._found:
            self._found[kind] = next((self._fields[one] for one in kind.__mro__ if one in self._fields), None)
        return self._found[kind]

    def put_on(self, envelope: Envelope) -> Envelope:
        """Return the envelope with the key that its class names, unless it has one, or one that says there is none.

        Raises `SerializationError` for what can be no key.
        """
        kind = envelope.message.__class__
        field = self.field_for(kind)
        if field is None or envelope.has(stamps.Key):
            return envelope
        try:
            key = stamps.Key(getattr(envelope.message, field))
        except Exception as error:  # A border: a property may raise anything.
            why = str(error) if isinstance(error, ConfigurationError) else describe(error)
            raise SerializationError(
                f"{qualified_name(kind)} cannot be sent, because {field!r} is no key: {sentence(why)}"
            ) from error
        return envelope if key.value is None else envelope.with_(key)
