"""The redrive policy of a queue, by which SQS moves messages elsewhere, of which nobody here hears."""

from __future__ import annotations

import json
from collections.abc import Mapping

ENOUGH = 25
"""How often a message may be received, at least, so that one that workers die of is buried before it is moved."""


def swallows(attributes: Mapping[str, str], where: str) -> str | None:
    """Return what a redrive policy takes from workers, in a sentence; None if it takes nothing."""
    try:
        policy = json.loads(attributes.get("RedrivePolicy", "{}"))
        most, target = int(policy.get("maxReceiveCount", ENOUGH)), str(policy.get("deadLetterTargetArn", ""))
    except (ValueError, TypeError, AttributeError):
        return None
    if most >= ENOUGH:
        return None
    queue = target.rpartition(":")[2]
    return (
        f"The redrive policy of {where} moves a message to {queue!r} when it was received {most} times, although none "
        "of its handlers has failed: a worker that stops, or gives back what it fetched ahead, counts too. Set "
        f"maxReceiveCount to {ENOUGH} or more, and leave what fails to a failure transport."
    )
