"""The worker, in parts: `worker` is where to begin, then `controller`, the thread that decides, and `slots`.

Nothing is imported here, as who only dispatches needs two or three of them.
"""
