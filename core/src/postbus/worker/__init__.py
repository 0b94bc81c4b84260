"""The worker, in parts: `worker` is where to begin, `sequential` and `concurrent` are its two ways to work.

Nothing is imported here, as who only dispatches needs two or three of them.
"""
