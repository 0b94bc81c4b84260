#!/bin/sh
# RabbitMQ 3.10 (Debian 12), a quorum queue with x-single-active-consumer: when the active worker cancels its consumer, to
# finish what it holds and stop, the next one becomes active at once, while the first is still at work: two workers at
# the same time, of which one holds 0, 1, 2 and the other gets 3, 4, 5. And what the first does not manage, and gives
# back, comes to the second after that. So it is too where the first just closes its connection, since a client may
# cancel on its own then (pika does): the second gets 4, 5, 3, 1, 2, also with the x-delivery-limit that is set here,
# with which this version returns a message to the front.
#
# One would expect "single active" to hold until what the active one has is settled, and the order to be kept, since that
# is what it is for. So each deployment of a worker may have two at work for a moment, and reorders; where order matters,
# look at a number in the message.
#
# Needs Debian 12 (amd64) and its package sources, and python3. Takes about a minute. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" 2>/dev/null || true; done; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
erlang=$(printf 'erlang-%s=1:25.2.3+dfsg-1+deb12u4 ' asn1 base crypto eldap ftp inets mnesia os-mon parsetools public-key \
    runtime-tools snmp ssl syntax-tools tftp tools xmerl)
apt-get -o APT::Sandbox::User=root download rabbitmq-server=3.10.8-1.1+deb12u1 $erlang >/dev/null
for package in *.deb; do dpkg-deb --extract "$package" .; done
sed -i "s#/usr/lib/erlang#$folder/usr/lib/erlang#g" usr/lib/erlang/bin/erl  # It names where it is installed.
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check pika==1.4.4
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free)
export PATH="$folder/usr/lib/erlang/bin:$PATH" HOME="$folder" ERL_EPMD_ADDRESS=127.0.0.1
ERL_EPMD_PORT=$(free)
RABBITMQ_DIST_PORT=$(free)
export ERL_EPMD_PORT RABBITMQ_DIST_PORT RABBITMQ_NODENAME=finding@localhost
export RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$port" RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_MNESIA_BASE="$folder/data" RABBITMQ_LOG_BASE="$folder/log" RABBITMQ_PID_FILE="$folder/pid"
export RABBITMQ_CONFIG_FILE="$folder/none" RABBITMQ_ADVANCED_CONFIG_FILE="$folder/none.config"
export RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins"
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false'
usr/lib/erlang/erts-*/bin/epmd &
pids=$!
RUNNING_UNDER_SYSTEMD=yes usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8/sbin/rabbitmq-server -noinput >server 2>&1 &
pids="$! $pids"
venv/bin/python - "$port" <<'PYTHON'
import sys, time

import pika
from pika.exceptions import AMQPError

QUEUE, PARAMETERS = "orders", pika.ConnectionParameters("127.0.0.1", int(sys.argv[1]))


def connect():
    for _ in range(240):
        try:
            return pika.BlockingConnection(PARAMETERS)
        except (AMQPError, OSError):
            time.sleep(0.25)
    sys.exit("RabbitMQ does not answer.")


class Worker:
    def __init__(self):
        self.connection = connect()
        self.channel = self.connection.channel()
        self.channel.basic_qos(prefetch_count=3)
        self.got = []  # Bodies and delivery tags.
        self.consumer = self.channel.basic_consume(QUEUE, self.take)

    def take(self, channel, method, properties, body):
        self.got.append((body.decode(), method.delivery_tag))

    def listen(self, count, seconds=30):
        """Until so many messages have come since the start, or the time is over."""
        until = time.monotonic() + seconds
        while len(self.got) < count and time.monotonic() < until:
            self.connection.process_data_events(0.2)
        return " ".join(body for body, _ in self.got)


def seen(stop):
    """What the second worker gets while the first holds three messages, and in the end; the first stops like that."""
    sender = connect()
    channel = sender.channel()
    channel.confirm_delivery()
    channel.queue_delete(QUEUE)
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": 20}
    channel.queue_declare(QUEUE, durable=True, arguments=arguments)
    for number in range(6):
        channel.basic_publish("", QUEUE, str(number).encode())
    first = Worker()
    assert first.listen(3) == "0 1 2"
    second = Worker()
    assert second.listen(1, seconds=2) == "", "The first is the active one."
    if stop == "cancel":
        first.channel.basic_cancel(first.consumer)
        meanwhile = second.listen(3, seconds=5)
        first.channel.basic_ack(first.got[0][1])  # It manages one of the three, and gives the rest back.
        for _, tag in first.got[1:]:
            first.channel.basic_nack(tag, requeue=True)
    else:
        meanwhile = second.listen(1, seconds=2)
        first.channel.basic_ack(first.got[0][1])
    first.connection.close()
    for count in range(5):
        second.listen(count + 1)
        second.channel.basic_ack(second.got[count][1])
    order = second.listen(6, seconds=2)
    for connection in second.connection, sender:
        connection.close()
    print(f"{stop}: while the first holds 0 1 2 the second gets {meanwhile or 'none'}; it gets {order} in all")
    return meanwhile, order


connection = connect()
print("RabbitMQ", connection._impl.server_properties["version"], "with pika", pika.__version__)
connection.close()
right = seen("cancel") == ("3 4 5", "3 4 5 1 2")
meanwhile, order = seen("close")
right = right and meanwhile == "" and sorted(order.split()) == ["1", "2", "3", "4", "5"] < order.split()
sys.exit(0 if right else "It is not as it was.")
PYTHON
