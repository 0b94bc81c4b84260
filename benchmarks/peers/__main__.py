"""Let one library do one thing, ``worker``, ``enqueue`` or ``enqueue_many``, and print the seconds for each message."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from typing import cast

from benchmarks.peers import Peer


def main() -> None:
    """Do what the command line asks for."""
    module, action, url, count, *options = sys.argv[1:]
    peer = cast(Peer, import_module(f"benchmarks.peers.{module}").make(url, *options))
    numbers = range(int(count))
    peer.purge()
    if action == "worker":
        peer.enqueue_many(numbers)
        seconds = peer.work(len(numbers))
    else:
        enqueue = peer.enqueue if action == "enqueue" else peer.enqueue_many
        enqueue(range(-1, 0))  # Which opens the connection.
        started = time.perf_counter()
        enqueue(numbers)
        seconds = time.perf_counter() - started
        peer.purge()
    print(seconds / len(numbers), flush=True)


if __name__ == "__main__":
    main()
