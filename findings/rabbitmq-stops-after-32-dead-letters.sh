#!/bin/sh
# RabbitMQ 3.10.8 (Debian 12): a quorum queue that dead-letters at-least-once keeps what its dead-letter exchange can
# route nowhere, and tries again. 32 of such messages stop it for good: what expires after them is sent on to nobody,
# also where a queue is bound for it. basic.get and a passive declaration then say that the queue is empty. The
# messages are there: when a queue had been bound for the 32, all came three minutes later. 4.0.5 does the same.
#
# So let nothing into such a queue that its dead-letter exchange cannot route, or have a queue for each target.
#
# Needs Debian 12 (amd64), its package sources, and python3 with venv. Takes about 30 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
export ERL_EPMD_ADDRESS=127.0.0.1
stop() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    [ -z "$pid" ] || wait "$pid" 2>/dev/null || true
    [ -z "${ERL_EPMD_PORT:-}" ] || "$folder/usr/lib/erlang/bin/epmd" -kill >/dev/null 2>&1 || true
    rm -rf "$folder"
}
trap stop EXIT
cd "$folder"
erlang=1:25.2.3+dfsg-1+deb12u4
packages=
for part in base crypto eldap inets mnesia os-mon parsetools public-key runtime-tools ssl syntax-tools tools xmerl \
    asn1 ftp tftp snmp; do
    packages="$packages erlang-$part=$erlang"
done
apt-get -o APT::Sandbox::User=root download rabbitmq-server=3.10.8-1.1+deb12u1 $packages >/dev/null
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
python3 -m venv python
./python/bin/pip install --quiet pika==1.4.4
sed -i "s|^ROOTDIR=.*|ROOTDIR=$folder/usr/lib/erlang|" usr/lib/erlang/bin/erl usr/lib/erlang/bin/start 2>/dev/null || true
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free)
ERL_EPMD_PORT=$(free)
RABBITMQ_DIST_PORT=$(free)
export ERL_EPMD_PORT RABBITMQ_DIST_PORT
export PATH="$folder/usr/lib/erlang/bin:$PATH" HOME="$folder"
export RABBITMQ_NODENAME=finding@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$port"
export RABBITMQ_MNESIA_BASE="$folder/data" RABBITMQ_LOG_BASE="$folder/log" RABBITMQ_PID_FILE="$folder/pid"
export RABBITMQ_ENABLED_PLUGINS_FILE="$folder/enabled_plugins" RABBITMQ_CONF_ENV_FILE="$folder/none"
export RABBITMQ_HOME="$(echo "$folder"/usr/lib/rabbitmq/lib/rabbitmq_server-*)"
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
"$RABBITMQ_HOME/sbin/rabbitmq-server" >server.log 2>&1 &
pid=$!
./python/bin/python - "$port" <<'PYTHON' || { tail -5 server.log; exit 1; }
import sys, time

import pika

LIMIT = 32


def connect():
    for _ in range(120):
        try:
            return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(sys.argv[1])))
        except pika.exceptions.AMQPError:
            time.sleep(0.5)
    sys.exit("RabbitMQ does not answer.")


connection = connect()
print("RabbitMQ", connection._impl.server_properties["version"])
channel = connection.channel()
channel.exchange_declare("due", "direct", durable=True)
channel.queue_declare("orders", durable=True)
channel.queue_bind("orders", "due", "order")
waiting = {
    "x-queue-type": "quorum",
    "x-message-ttl": 200,
    "x-dead-letter-exchange": "due",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
channel.queue_declare("waiting", durable=True, arguments=waiting)
channel.confirm_delivery()


def publish(key):
    # Through an exchange that leaves the routing key as it is.
    channel.basic_publish("in", key, b"", pika.BasicProperties(delivery_mode=2), mandatory=True)


def arrived():
    time.sleep(3)  # Fifteen times as long as a message waits.
    number = channel.queue_declare("orders", passive=True).method.message_count
    channel.queue_purge("orders")
    return number


channel.exchange_declare("in", "fanout", durable=True)
channel.queue_bind("waiting", "in")
seen = []
for unroutable in (0, LIMIT - 1, 1):
    for _ in range(unroutable):
        publish("nobody")
    publish("order")
    seen.append(arrived())
    print(f"After {unroutable} more that go nowhere, {seen[-1]} of 1 that is bound for arrives.")
shown = channel.queue_declare("waiting", passive=True).method.message_count
print(f"The queue says that it holds {shown}; {LIMIT + 1} were confirmed and are nowhere else.")
sys.exit(0 if seen == [1, 1, 0] and shown == 0 else "It is not as it was.")
PYTHON
