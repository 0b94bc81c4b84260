"""`Validate`, a middleware: what is wrong with a message is found before anything is done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from postbus.bus import Next
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, Invalid, qualified_name, text_of
from postbus.handlers import Handlers
from postbus.serialization import Codec, explain, make_codec

Check = Callable[[Any], Mapping[str, str] | None]
"""Returns what is wrong with a message, by field; nothing, or an empty mapping, if all is well. It may raise too."""


class Validate:
    """Refuses a message that is not what its class says, where it is dispatched and where it is received.

    A pydantic model, and all fields of an attrs class that have validators, are asked themselves; the fields of a
    dataclass and of a msgspec Struct are compared with their annotations, limits (`msgspec.Meta`) included. Then come
    the checks, each for the messages that its first parameter is annotated with::

        def check_total(order: OrderPlaced) -> dict[str, str] | None:
            return {"total": "is below 0"} if order.total < 0 else None


        app = Postbus(buses={"default": {"middleware": [Validate(check_total)]}})

    Raises `Invalid`, which names the fields. In a worker, such a message is buried at once.
    """

    def __init__(self, *checks: Check) -> None:
        self._checks = Handlers()
        for check in checks:
            self._checks.handler(check)
        self._codecs: dict[type, Codec | None] = {}

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Go on, if nothing is wrong."""
        problems = dict(self._problems(envelope.message))
        if problems:
            raise Invalid(qualified_name(envelope.message.__class__), problems)
        return call_next(envelope)

    def _problems(self, message: Any) -> Iterator[tuple[str, str]]:
        found = tuple(self._own_problems(message))
        if found:  # The checks see what is at least of the right types.
            yield from found
            return
        for check in self._checks.handlers_for(message, "", None):
            try:
                wrong = check.function(message)
            except Exception as error:  # A border: it is the user's code, and says so that the message is wrong.
                yield check.name, text_of(error) or type(error).__name__
            else:
                yield from (wrong or {}).items()

    def _own_problems(self, message: Any) -> Iterator[tuple[str, str]]:
        """Yield what is wrong as the class itself sees it."""
        kind = message.__class__
        if hasattr(kind, "__pydantic_validator__"):
            yield from _problems_of_model(message)
            return
        if hasattr(kind, "__attrs_attrs__") and (found := dict(_problems_of_attributes(message))):
            yield from found.items()
            return
        codec = self._codec_for(kind)
        if codec is None or (codec.is_plain is not None and codec.is_plain(message)):
            return
        try:
            body = codec.encode(message)
        except Exception:  # A border: it is handled here, and need have no form. If it is sent, that is said then.
            return
        try:
            codec.decode(body)
        except Exception as error:  # A border: its class runs code of its own.
            path, _, problem = explain(error).partition(": ")
            yield path.removeprefix("$").removeprefix(".") or "$", problem or path

    def _codec_for(self, kind: type) -> Codec | None:
        if kind not in self._codecs:
            try:
                self._codecs[kind] = make_codec(kind)
            except (ConfigurationError, NameError):
                self._codecs[kind] = None
        return self._codecs[kind]


def _problems_of_model(message: Any) -> Iterator[tuple[str, str]]:
    """Yield what a pydantic model says of itself, and those of models that it holds; it may have been changed since."""
    names: Iterable[str] = message.__class__.__pydantic_fields__
    values: dict[str, Any] = {name: message.__dict__[name] for name in names if name in message.__dict__}
    values.update(getattr(message, "__pydantic_extra__", None) or {})
    try:
        message.__pydantic_validator__.validate_python(values, strict=True, by_alias=False, by_name=True)
    except Exception as error:  # A border: its validators may raise anything.
        if not hasattr(error, "errors"):
            yield "$", text_of(error)
            return
        for detail in cast(Any, error).errors(include_url=False, include_input=False):
            yield ".".join(map(str, detail["loc"])) or "$", detail["msg"]
    for name, value in values.items():
        if hasattr(value.__class__, "__pydantic_validator__"):
            yield from ((f"{name}.{field}", problem) for field, problem in _problems_of_model(value))


def _problems_of_attributes(message: Any) -> Iterator[tuple[str, str]]:
    for attribute in message.__attrs_attrs__:
        if attribute.validator is not None:
            try:
                attribute.validator(message, attribute, getattr(message, attribute.name))
            except Exception as error:  # A border, as above.
                yield attribute.name, _first_argument(error)


def _first_argument(error: Exception) -> str:
    """Return what a validator of attrs says; behind that it has the attribute, and the value, which may be a secret."""
    said = error.args[0] if error.args else None
    return said if isinstance(said, str) else text_of(error) or type(error).__name__
