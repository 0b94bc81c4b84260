"""The stamps of this plugin; written qualified, like those of the core (``stamps.BeanstalkdJob``)."""

from __future__ import annotations

from postbus.stamps import Stamp


class BeanstalkdJob(Stamp):
    """How this message lies on beanstalkd, where that is not what the DSN says.

    It travels, so that a retry, and what comes back from a failure transport, is as urgent as before.
    """

    wire_name = "beanstalkd-job"
    priority: int | None = None
    """0 is the most urgent, 4294967295 the least; 1024 what is usual."""
    ttr: int | None = None
    """For how many seconds one delivery is the worker's own, unless it is kept alive; at least 2."""
    tube: str | None = None
    """The tube that it is put into. A failure transport keeps its own."""
