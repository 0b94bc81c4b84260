"""Who reads what: each topic is divided among all members by itself."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from postbus_kafka.untyped import ConsumerProtocolAssignment, CooperativeStickyAssignor


class EvenAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """As Kafka's own of the same name, but for one topic after the other.

    That one divides the partitions of all topics as if they were alike. So one of two workers could get everything
    of a topic, and the other one everything of its retries, which is nothing.
    """

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:
        """Return what each member gets."""
        kafkas: Any = super()
        found: dict[str, list[Any]] = {member.member_id: [] for member in members}
        topics = sorted({topic for member in members for topic in member.metadata.topics})
        for topic in topics:
            concerned = [_only(topic, member) for member in members if topic in member.metadata.topics]
            divided: dict[str, Any] = kafkas.assign(cluster, concerned)
            for member_id, assignment in divided.items():
                found[member_id] += assignment.assigned_partitions
        return {member: ConsumerProtocolAssignment(self.version, parts, b"") for member, parts in found.items()}


def _only(topic: str, member: Any) -> SimpleNamespace:
    """Return a member as if it had subscribed to one topic only."""
    metadata = member.metadata
    owned = [one for one in getattr(metadata, "owned_partitions", None) or () if one.topic == topic]
    return SimpleNamespace(
        member_id=member.member_id,
        group_instance_id=getattr(member, "group_instance_id", None),
        metadata=SimpleNamespace(topics=[topic], owned_partitions=owned, generation_id=metadata.generation_id),
    )
