"""The stamps of this plugin; written qualified, like those of the core (``stamps.SqsGroup``)."""

from __future__ import annotations

from postbus.stamps import Stamp


class SqsGroup(Stamp, gc=False):
    """Which message group a message belongs to.

    On a FIFO queue the messages of one group are handled one after the other, in their order. On a standard queue,
    which then is a *fair queue*, a group with a long backlog does not make those of others wait. It travels, so that a
    message comes back into its group from wherever it was kept.
    """

    wire_name = "sqs-group"
    name: str


class SqsDeduplication(Stamp, gc=False):
    """By what a FIFO queue knows that it has taken a message within the last five minutes; it drops another one.

    Without it each message that is dispatched is one of its own. A retry is always another one.
    """

    id: str
