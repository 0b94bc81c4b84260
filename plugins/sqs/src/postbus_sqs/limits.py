"""What the service allows, as AWS documents it."""

from __future__ import annotations

BATCH = 10
"""How many messages one request sends, receives, deletes or keeps at most."""

LARGEST = 1024 * 1024
"""Bytes of a message, body and attributes; of all messages of one request together, too."""

LONGEST_WAIT = 20
"""Seconds for which one request can wait for messages."""

LONGEST_DELAY = 900
"""Seconds for which a standard queue keeps a message back."""

LONGEST_LEASE = 12 * 3600
"""Seconds for which a message can be hidden, from the moment at which it was received."""
