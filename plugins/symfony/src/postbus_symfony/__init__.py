"""The serializers for queues that a Symfony application shares, named after how that spells names in its JSON."""

from __future__ import annotations

from collections.abc import Callable

from postbus.hookspecs import SerializerFactory, hookimpl
from postbus.serialization import TypeRegistry
from postbus_symfony.bodies import camel_case
from postbus_symfony.serializer import SymfonySerializer

__all__ = ["SymfonySerializer", "camel_case"]


@hookimpl
def register_serializers(register: Callable[[str, SerializerFactory], None]) -> None:
    """Offer them, for ``serializer = "symfony"`` on a transport."""
    register("symfony", SymfonySerializer)
    register("symfony-camel-case", _make_camel_case)
    register("symfony-snake-case", _make_snake_case)


def _make_camel_case(types: TypeRegistry) -> SymfonySerializer:
    return SymfonySerializer(types, rename=camel_case)


def _make_snake_case(types: TypeRegistry) -> SymfonySerializer:
    return SymfonySerializer(types, snake_case_stamps=True)
