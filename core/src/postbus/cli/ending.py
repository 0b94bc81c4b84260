"""The end of a process that has run a worker: Python waits for threads, and for what was registered, without limit."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback

from postbus.cli import logs
from postbus.stacks import as_text, current_frames

logger = logging.getLogger(logs.ANNOUNCEMENTS)


def end_within(seconds: float, code: int) -> None:
    """End this process with a code, should it not have ended by itself in so many seconds, and say what held it up."""

    def run() -> None:
        time.sleep(seconds)
        try:
            logger.error(
                "Ending this process, which did not end within %.0f s. It was held up by %s", seconds, holdup()
            )
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:  # Whoever read our output may have gone.
            os._exit(code)

    threading.Thread(target=run, name="postbus-end", daemon=True).start()


def holdup() -> str:
    """Return what Python waits for before it ends: the threads that are no daemons, or what the main one is in."""
    main = threading.main_thread()
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not main]
    frames = current_frames()
    return "\n".join(
        f"thread {thread.name!r}, which is here:\n"
        + as_text(frame for frame, _ in reversed(list(traceback.walk_stack(frames.get(thread.ident or 0)))))
        for thread in others or [main]
    )
