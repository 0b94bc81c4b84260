"""Opening a client of kafka-python, and finding out why that fails: what it raises itself is always a timeout."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from postbus.errors import TransportError
from postbus_kafka.errors import translate
from postbus_kafka.options import Settings
from postbus_kafka.untyped import KafkaConnectionManager, KafkaNetClient, MemberState, NetworkSelector, errors

# Every lost connection would be reported by kafka-python as well, many times a second, while it is being mended.
_kafka_logger = logging.getLogger("kafka")
if _kafka_logger.level == logging.NOTSET:
    _kafka_logger.setLevel(logging.CRITICAL)


class Opened:
    """A client: consumer, producer or admin, with its network."""

    client: Any

    def __init__(self, kind: Callable[..., Any], settings: Settings, name: str, purpose: str, **options: Any) -> None:
        """Open it; raises what `translate` makes of the reason for which no broker could be reached."""
        self._settings = settings
        self._reason: BaseException | None = None
        self.net: Any = None
        self.network: Any = None
        try:
            self.client = kind(**settings.client(name, purpose), **options, kafka_client=self._make_network)
        except Exception as error:
            self._abandon()
            raise self.translate(error) from error

    def translate(self, error: BaseException) -> TransportError:
        """Return what a connection raises in place of an error of this client."""
        return translate(error, self._settings, self._reason)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to any broker."""
        brokers = [broker.node_id for broker in self.network.cluster.brokers()]
        return any(self.network.connected(broker) for broker in brokers)

    @property
    def is_cut_off(self) -> bool:
        """Whether no broker can be reached: there is no connection, and the last one failed."""
        return self._reason is not None and not self.is_connected

    @property
    def is_joining(self) -> bool:
        """Whether a consumer has heard that its group divides its partitions anew, and is not done with that.

        Until it is, one poll has to follow the other at once: kafka-python throws away an answer that comes between
        two of them, and joins anew, which has the whole group divide them once more. Nobody can commit meanwhile.
        """
        return bool(self.client._coordinator.rejoin_needed)

    @property
    def silence(self) -> float:
        """For how many seconds a consumer has heard nothing of its group, which answers each sign of life."""
        heartbeat = self.client._coordinator.heartbeat
        return 0.0 if self.is_joining else time.monotonic() - max(heartbeat.last_receive, heartbeat.last_reset)

    def go_on_joining(self) -> None:
        """See that a consumer whose poll has ended while it was joining its group takes that up again.

        If it rejoins because partitions were added, kafka-python forgets that once it has divided them anew: a poll
        that ends before the answer, and is followed by others, leaves it without partitions and signs of life for good.
        """
        if self.client.group_metadata().state == MemberState.REBALANCING:
            self.client._coordinator.request_rejoin()

    def _make_network(self, **configs: Any) -> Any:
        # The client has no option for it, and would wait for twice as long as it waits for an answer.
        configs["socket_connection_setup_timeout_ms"] = int(self._settings.options.timeout * 1000)
        self.net = NetworkSelector(**configs)
        self.network = KafkaNetClient(net=self.net, manager=_Manager(self.net, self._note, **configs), **configs)
        return self.network

    def _note(self, reason: BaseException | None) -> None:
        self._reason = reason

    def _abandon(self) -> None:
        """End what a constructor that raised has left running."""
        if self.network is not None:
            with suppress(Exception):
                self.network.close()


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Tells why each connection ended, and that another one was made."""

    def __init__(self, net: Any, note: Callable[[BaseException | None], None], **configs: Any) -> None:
        KafkaConnectionManager.__init__(self, net, **configs)
        self._note = note
        self._known: set[int] = set()
        self._hung_up = 0
        """How often a broker has ended a connection in the middle of a login."""

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        connection: Any = KafkaConnectionManager.get_connection(self, *arguments, **options)
        if id(connection) not in self._known:
            self._known.add(id(connection))
            self._watch(connection)
        return connection

    def _watch(self, connection: Any) -> None:
        made, ended = connection.init_future, connection.close_future

        def note_made(_: object) -> None:
            self._note(None)

        def note_refused(error: BaseException) -> None:
            self._note(self._explained(connection, error))

        def note_ended(error: BaseException) -> None:
            if made.succeeded():  # What refuses a password closes the connection too, which says less.
                self._note(error)

        def forget(*_: object) -> None:
            self._known.discard(id(connection))

        made.add_callback(note_made)
        made.add_errback(note_refused)
        ended.add_errback(note_ended)
        ended.add_both(forget)

    def _explained(self, connection: Any, error: BaseException) -> BaseException:
        # kafka-python throws away what a broker says before it hangs up, which is that it refuses the password. A
        # broker that is being stopped hangs up as well, but not twice.
        if not self.bootstrapped and connection.sasl_enabled and connection.broker_version_data is not None:
            self._hung_up += "disconnected" in str(error)
        return errors.SaslAuthenticationFailedError() if self._hung_up > 1 else error
