#!/bin/sh
# What gevent's monkey.patch_all() makes of threads, selectors and event loops: a library that hands work to a thread
# of its own, or interrupts the main thread with a signal, must not believe the ids that it is given.
#
# One would expect an ident to be that of a thread of the system, and a running loop to be seen by its own thread only.
# So who supports gevent has to ask whether it has patched threads, and then leave both alone.
#
# Needs python3. Takes a few seconds. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gevent==26.9.0
"$folder/venv/bin/python" - <<'PROGRAM'
import gevent.monkey

gevent.monkey.patch_all()

import asyncio
import platform
import selectors
import sys
import threading

import gevent

print("Python", platform.python_version(), "gevent", gevent.__version__)
seen = {}

# pthread_kill(3) takes the ident of a thread; this one is the address of a greenlet.
seen["the main thread's ident is one of a thread"] = threading.main_thread().ident in sys._current_frames()
seen["the default selector has a file number"] = hasattr(selectors.DefaultSelector, "fileno")

# The running loop belongs to the thread of the system, and so to all greenlets.
loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever)
thread.start()
while not loop.is_running():
    gevent.sleep(0.01)
try:
    asyncio.get_running_loop()
    seen["a loop in one thread runs for the others too"] = True
except RuntimeError:
    seen["a loop in one thread runs for the others too"] = False
loop.call_soon_threadsafe(loop.stop)
thread.join()
loop.close()

for what, is_so in seen.items():
    print(f"{what}: {is_so}")
sys.exit(list(seen.values()) != [False, False, True])
PROGRAM
