"""What a message may be, at most."""

from __future__ import annotations

LONGEST_DELAY = 1000 * 365 * 86400.0
"""Seconds. Lua, in which Redis reckons when a message is due, is exact for some thirty thousand years."""

LARGEST = 512 * 1024 * 1024
"""Bytes of a message that Redis takes, unless it is configured otherwise."""

ROOM = 64 * 1024
"""Bytes that Redis may have in its buffer beside a message."""

UNDOUBTED = 1024 * 1024 - ROOM
"""Bytes that Redis takes however it is configured."""
