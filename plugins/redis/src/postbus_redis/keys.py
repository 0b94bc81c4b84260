"""The keys of a queue: its stream, its delayed set, the stream of wake-ups, and beside these its notes."""

from __future__ import annotations

import re
from typing import NamedTuple

from postbus.errors import DsnError

_WAKE = b"__wake"
_TAG = re.compile(r"\{[^}]+\}")


class Keys(NamedTuple):
    """Three keys, which a Redis Cluster keeps on one server; scripts are given all of them."""

    stream: bytes
    delayed: bytes
    wake: bytes

    @property
    def notes(self) -> bytes:
        """The hash of the notes, on the same server."""
        return self.wake.removesuffix(_WAKE) + b"__notes"


def keys_for(stream: str, *, cluster: bool) -> Keys:
    """Return the keys of a queue. The first two are Symfony's, but for the second in a Cluster.

    There, what stands in braces decides where a key lies, so ``{messages}__queue`` lies beside ``messages``. A
    stream that has braces already shares them.
    """
    name = stream
    if cluster and not _TAG.search(stream):
        if "}" in stream:
            raise DsnError(
                f"The stream {stream!r} cannot be in a Redis Cluster, because of its '}}'. Name it otherwise."
            )
        name = f"{{{stream}}}"
    return Keys(stream.encode(), f"{name}__queue".encode(), name.encode() + _WAKE)
