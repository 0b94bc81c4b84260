#!/bin/sh
# persist-queue 1.1 (a queue in a file, with acknowledgement: SQLiteAckQueue): whoever opens the queue, be it only to
# put a message, makes every message that somebody is working on available again. So a part of a program, or another
# process, that opens it to send has each running job delivered a second time while the first worker is still at it,
# and both acknowledge it. A delivery has no owner and no time limit; what counts is that the file was opened.
#
# One would expect that unacknowledged messages come back when their worker is gone. What brings them back here is the
# default, auto_resume=True: one worker may have that, if it starts before all others; all who send, and all other
# workers, need auto_resume=False.
#
# Needs python3. Takes about 10 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check persist-queue==1.1.0
venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

from persistqueue import Empty, SQLiteAckQueue

print("persist-queue", version("persist-queue"))


def redelivered(path, **options):
    """What a second worker gets while the first one holds "order 1" and a sender opens the queue to put "order 2"."""
    first = SQLiteAckQueue(path, multithreading=True)
    first.put("order 1")
    held = first.get(block=False)
    second = SQLiteAckQueue(path, multithreading=True, auto_resume=False)
    SQLiteAckQueue(path, multithreading=True, **options).put("order 2")
    got = []
    try:
        while True:
            got.append(second.get(block=False))
    except Empty:
        pass
    print(f"The sender opens it with {options or 'the defaults'}: one holds {held!r}, the other gets {got}")
    return held, got


right = redelivered("default") == ("order 1", ["order 1", "order 2"]) and redelivered(
    "explicit", auto_resume=False
) == ("order 1", ["order 2"])
sys.exit(0 if right else "It is not as it was.")
PYTHON
