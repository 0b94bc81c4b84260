"""What this plugin takes from pika, without types: pika brings none that a checker would find."""

from typing import TYPE_CHECKING, Any

__all__ = ["IOLoop", "SelectConnection", "exceptions", "frame", "pika", "spec"]

if not TYPE_CHECKING:
    import pika
    from pika import exceptions, frame, spec
    from pika.adapters.select_connection import IOLoop, SelectConnection

IOLoop: Any
SelectConnection: Any
exceptions: Any
frame: Any
pika: Any
spec: Any
