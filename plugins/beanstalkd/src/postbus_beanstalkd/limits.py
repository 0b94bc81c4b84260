"""What the protocol of beanstalkd and its server set limits to."""

from __future__ import annotations

LARGEST = 65_535
"""Bytes of a job, unless the server was started with another ``-z``."""

MOST = 2**32 - 1
"""The largest number that a priority, a delay and a ttr can be; both times are whole seconds."""

SHORTEST_TTR = 2
"""Seconds. In the last second of a ttr a server says no more than that it is nearly over."""
