"""The worker, in parts: `worker` is where to begin, `sequential` and `concurrent` are its two ways to work."""

from postbus.worker.worker import Worker

__all__ = ["Worker"]
