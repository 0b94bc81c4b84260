"""What this plugin takes from kafka-python, without types: it brings none that a checker would find."""

from typing import TYPE_CHECKING, Any

__all__ = [
    "AsyncConsumerRebalanceListener",
    "ConfigResource",
    "ConsumerProtocolAssignment",
    "CooperativeStickyAssignor",
    "KafkaAdminClient",
    "KafkaConnectionManager",
    "KafkaConsumer",
    "KafkaNetClient",
    "KafkaProducer",
    "MemberState",
    "NetworkSelector",
    "OffsetAndMetadata",
    "OffsetSpec",
    "TopicPartition",
    "errors",
]

if not TYPE_CHECKING:
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors
    from kafka.admin import ConfigResource, OffsetSpec
    from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
    from kafka.net.compat import KafkaNetClient
    from kafka.net.manager import KafkaConnectionManager
    from kafka.net.selector import NetworkSelector
    from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
    from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

AsyncConsumerRebalanceListener: Any
ConfigResource: Any
ConsumerProtocolAssignment: Any
CooperativeStickyAssignor: Any
KafkaAdminClient: Any
KafkaConnectionManager: Any
KafkaConsumer: Any
KafkaNetClient: Any
KafkaProducer: Any
MemberState: Any
NetworkSelector: Any
OffsetAndMetadata: Any
OffsetSpec: Any
TopicPartition: Any
errors: Any
