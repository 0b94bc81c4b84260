"""The serializers for queues that a Symfony application shares, named after how that spells names in its JSON.

In code, take `postbus_symfony.serializer.SymfonySerializer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from postbus.hookspecs import hookimpl
from postbus.serialization import SerializerFactory, TypeRegistry

if TYPE_CHECKING:
    from postbus_symfony.serializer import SymfonySerializer

CONTRACT = 1


@hookimpl
def register_serializers(register: Callable[[str, SerializerFactory], None]) -> None:
    """Offer them, for ``serializer = "symfony"`` on a transport."""
    register("symfony", make_serializer)
    register("symfony-camel-case", make_camel_case_serializer)
    register("symfony-snake-case", make_snake_case_serializer)


def make_serializer(types: TypeRegistry) -> SymfonySerializer:
    """Return the serializer for an application that spells its properties as they are spelt here."""
    from postbus_symfony.serializer import SymfonySerializer

    return SymfonySerializer(types)


def make_camel_case_serializer(types: TypeRegistry) -> SymfonySerializer:
    """Return the serializer for one with properties in camel case."""
    from postbus_symfony.serializer import SymfonySerializer, camel_case

    return SymfonySerializer(types, rename=camel_case)


def make_snake_case_serializer(types: TypeRegistry) -> SymfonySerializer:
    """Return the serializer for one that writes all properties, Symfony's own too, in snake case."""
    from postbus_symfony.serializer import SymfonySerializer

    return SymfonySerializer(types, snake_case_stamps=True)
