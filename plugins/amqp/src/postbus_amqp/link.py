"""A connection of pika's that hands on the properties of a message as they came."""

from __future__ import annotations

import struct
from typing import Any

from postbus_amqp.untyped import SelectConnection, frame, spec

_START = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQ")


class Link(SelectConnection):  # type: ignore[misc]
    """Does not read the properties, which are bytes in its frames: for what pika cannot read there it raises.

    That would end the connection, again and again, since the message comes again.
    """

    def _read_frame(self) -> tuple[int, Any]:
        """Return how many bytes of what has come are a frame, and the frame; 0 and None if it has not come wholly."""
        data: bytes = self._frame_buffer
        if len(data) < _START.size or data[0] != spec.FRAME_HEADER:
            taken: tuple[int, Any] = super()._read_frame()
            return taken
        _, channel, size = _START.unpack_from(data)
        end = _START.size + size
        if len(data) <= end:
            return 0, None
        _, _, body_size = _CONTENT.unpack_from(data, _START.size)
        return end + 1, frame.Header(channel, body_size, data[_START.size + _CONTENT.size : end])
