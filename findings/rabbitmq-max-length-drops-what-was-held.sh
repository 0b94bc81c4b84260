#!/bin/sh
# RabbitMQ 3.10 (Debian 12), a queue with x-max-length and the default overflow (drop-head), classic or quorum: what a
# worker holds unacknowledged is not counted, so the queue fills up behind it; and when the worker dies, what it held
# comes back to the head, which is where the queue drops. So a limit of five loses the five messages that were being
# worked on, the oldest, and keeps the five new ones. Every publish was confirmed, and the worker lost its connection
# only. With x-overflow=reject-publish nothing is lost: the queue is then twice as long as its limit.
#
# One would expect a limit to bound what is waiting, and an unacknowledged message to be delivered again, as the broker
# promises. So drop-head is for queues whose messages may be lost at any time, also while they are being worked on; the
# sender, who has its confirmation, and the worker hear nothing of it.
#
# Needs Debian 12 (amd64) and its package sources, and python3. Takes about a minute. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" 2>/dev/null || true; done; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
apt-get -o APT::Sandbox::User=root download rabbitmq-server=3.10.8-1.1+deb12u1 >/dev/null
for part in asn1 base crypto eldap ftp inets mnesia os-mon parsetools public-key runtime-tools snmp ssl syntax-tools \
    tftp tools xmerl; do
    apt-get -o APT::Sandbox::User=root download "erlang-$part=1:25.2.3+dfsg-1+deb12u4" >/dev/null
done
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

LIMIT, PARAMETERS = 5, pika.ConnectionParameters("127.0.0.1", int(sys.argv[1]))


def connect():
    for _ in range(240):
        try:
            return pika.BlockingConnection(PARAMETERS)
        except (AMQPError, OSError):
            time.sleep(0.25)
    sys.exit("RabbitMQ does not answer.")


def send(channel, queue, word):
    for number in range(LIMIT):
        channel.basic_publish("", queue, f"{word} {number}".encode())  # Returns once it is confirmed, or raises.


def take(channel, queue, count):
    """`count` messages, waited for, or all that are there; not acknowledged."""
    got = []
    for _ in range(100):
        _, _, body = channel.basic_get(queue)
        if body is not None:
            got.append(body.decode())
        elif len(got) >= count:
            break
        else:
            time.sleep(0.1)
        if count and len(got) == count:
            break
    return got


def lost(sender, queue, **arguments):
    channel = sender.channel()
    channel.confirm_delivery()
    channel.queue_declare(queue, durable=True, arguments={"x-max-length": LIMIT, **arguments})
    send(channel, queue, "old")
    worker = connect()
    held = take(worker.channel(), queue, LIMIT)
    assert len(held) == LIMIT
    send(channel, queue, "new")
    worker.close()
    time.sleep(2)
    left = take(channel, queue, 0)
    print(f"{queue}: a worker held {held} and closed; left are {left}")
    return sorted(set(held) - set(left)), len(left)


sender = connect()
print("RabbitMQ", sender._impl.server_properties["version"], "with pika", pika.__version__)
old = [f"old {number}" for number in range(LIMIT)]
right = (
    lost(sender, "classic") == (old, LIMIT)
    and lost(sender, "quorum", **{"x-queue-type": "quorum"}) == (old, LIMIT)
    and lost(sender, "reject-publish", **{"x-overflow": "reject-publish"}) == ([], 2 * LIMIT)
)
sender.close()
sys.exit(0 if right else "It is not as it was.")
PYTHON
