"""pika alone, on a durable queue: ``python -m benchmarks.raw.rabbitmq URL QUEUE`` receives pings.

Batches go through a SelectConnection, which is faster at both than a BlockingConnection; single messages
through a BlockingConnection, as in pika's own examples.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pika

WINDOW = 500
"""How many messages are published before their confirms are waited for."""
PREFETCH = 1000
SETTLED = 100
"""How many deliveries one `basic.ack` settles; fewer or more are slower."""


class Queue:
    """A durable queue, bound to an exchange of its own, and persistent messages."""

    def __init__(self, url: str, name: str, message: Any = None) -> None:
        self.dsn = f"{url}/{name}"
        self.listener: Sequence[str] = ("benchmarks.raw.rabbitmq", url, name)
        self._name = name
        self._message = message
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 0  # Nobody looks after this connection while others are measured.
        self._connection = pika.BlockingConnection(self._parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def setup(self) -> None:
        self._channel.exchange_declare(self._name, "fanout", durable=True)
        self._channel.queue_declare(self._name, durable=True)
        self._channel.queue_bind(self._name, self._name)

    def pop(self) -> Any:
        _, properties, body = self._channel.basic_get(self._name, auto_ack=True)
        return body, properties

    def store(self, count: int) -> None:
        _Publisher(self._parameters, self._publish).run(count)

    def store_singly(self, count: int) -> None:
        for _ in range(count):
            self._publish(self._channel)

    def take(self, count: int) -> None:
        _Consumer(self._parameters, self._name).run(count)

    def ping(self, sent_at: float) -> None:
        properties = pika.BasicProperties(delivery_mode=2)
        self._channel.basic_publish(self._name, "", repr(sent_at).encode(), properties, mandatory=True)

    def listen(self) -> None:
        """Tell how old each ping is."""

        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            print(time.monotonic() - float(body), flush=True)
            channel.basic_ack(method.delivery_tag)

        self._channel.basic_qos(prefetch_count=PREFETCH)
        self._channel.basic_consume(self._name, on_message)
        print("ready", flush=True)
        self._channel.start_consuming()

    def empty(self) -> None:
        self._channel.queue_purge(self._name)

    def delete(self) -> None:
        self._channel.queue_delete(self._name)
        self._channel.exchange_delete(self._name)

    def close(self) -> None:
        self._connection.close()

    def _publish(self, channel: Any) -> None:
        body, properties = self._message
        channel.basic_publish(self._name, "", body, properties, mandatory=True)


class _Client:
    """A SelectConnection that lives until its work is done."""

    def __init__(self, parameters: pika.URLParameters) -> None:
        self.left = 0
        self._connection = pika.SelectConnection(
            parameters,
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.begin),
            on_close_callback=lambda connection, reason: connection.ioloop.stop(),
        )

    def run(self, count: int) -> None:
        """Do so many messages."""
        self.left = count
        self._connection.ioloop.start()
        if self.left:
            raise RuntimeError(f"RabbitMQ closed the connection with {self.left} messages to go.")

    def begin(self, channel: Any) -> None:
        """Start to work."""
        raise NotImplementedError

    def end(self) -> None:
        """Let `run` return."""
        self._connection.close()


class _Publisher(_Client):
    """Publishes a window of messages, waits for their confirms, and publishes the next."""

    def __init__(self, parameters: pika.URLParameters, publish: Callable[[Any], None]) -> None:
        super().__init__(parameters)
        self._publish = publish
        self._published = 0
        self._unconfirmed: set[int] = set()

    def begin(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._publish_window())

    def _publish_window(self) -> None:
        for _ in range(min(WINDOW, self.left)):
            self._publish(self._channel)
            self._published += 1
            self._unconfirmed.add(self._published)

    def _on_confirm(self, frame: Any) -> None:
        confirm = frame.method
        if not isinstance(confirm, pika.spec.Basic.Ack):
            raise RuntimeError("RabbitMQ refused a message.")
        before = len(self._unconfirmed)
        if confirm.multiple:
            self._unconfirmed = {tag for tag in self._unconfirmed if tag > confirm.delivery_tag}
        else:
            self._unconfirmed.discard(confirm.delivery_tag)
        self.left -= before - len(self._unconfirmed)
        if self.left == 0:
            self.end()
        elif not self._unconfirmed:
            self._publish_window()


class _Consumer(_Client):
    """Consumes, and settles many deliveries at once."""

    def __init__(self, parameters: pika.URLParameters, queue: str) -> None:
        super().__init__(parameters)
        self._queue = queue

    def begin(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(self._queue, self._on_message)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if self.left == 0:  # What was on its way when the last one came.
            return
        self.left -= 1
        if self.left % SETTLED == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if self.left == 0:
            self.end()


def server_version(url: str) -> str:
    """Return the version that the broker tells its clients."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return str(connection._impl.server_properties["version"])


if __name__ == "__main__":
    Queue(*sys.argv[1:]).listen()
