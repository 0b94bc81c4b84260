"""What this plugin takes from stomp.py, without types: it brings none that a checker would find."""

from typing import TYPE_CHECKING, Any

__all__ = ["BaseConnection", "Protocol12", "StompException", "Transport"]

if not TYPE_CHECKING:
    from stomp.connect import BaseConnection
    from stomp.exception import StompException
    from stomp.protocol import Protocol12
    from stomp.transport import Transport

BaseConnection: Any
Protocol12: Any
StompException: Any
Transport: Any
