#!/bin/sh
# NATS server 2.15 (JetStream's message schedules): a delayed message is an ordinary message of the stream until it is
# due, and retention and consumers treat it so. Where the stream keeps messages by interest and its consumers read the
# target subject only, nobody has an interest in the schedule: it is acknowledged to the sender, dropped at once, and
# never fires. In a work queue whose consumer reads every subject it is delivered at once, without its delay, and to
# acknowledge it there is to cancel it.
#
# One would expect that a stream that accepts a delayed message delivers it when it is due, and not before. So each
# stream with delays needs a consumer that holds the schedules' subject without reading it, or another retention.
#
# Needs go (1.25 or later) and python3. Takes about a minute, most of it the build. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
GOBIN="$folder" go install github.com/nats-io/nats-server/v2@v2.15.3 2>build || { cat build >&2; exit 1; }
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check nats-py==2.16.0
./nats-server --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
./nats-server --addr 127.0.0.1 --port "$port" --jetstream --store_dir "$folder/store" --log /dev/null &
pid=$!
venv/bin/python - "$port" <<'PYTHON'
import asyncio, sys
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

import nats
from nats.errors import TimeoutError
from nats.js.api import RetentionPolicy, StreamConfig

print("nats-py", version("nats-py"))
DELAY = 2


async def connect():
    for _ in range(100):
        try:
            return await nats.connect(f"nats://127.0.0.1:{sys.argv[1]}", allow_reconnect=False, error_cb=quiet)
        except OSError:
            await asyncio.sleep(0.1)
    sys.exit("The server does not answer.")


async def quiet(error):
    pass


async def received(subscription):
    """What comes until three seconds after the delay is over, each acknowledged."""
    found = []
    while True:
        try:
            for message in await subscription.fetch(10, timeout=DELAY + 3):
                await message.ack_sync()
                found.append((message.subject, message.data.decode()))
        except TimeoutError:
            return found


async def attempt(stream, name, retention, reads):
    await stream.add_stream(
        StreamConfig(name=name, subjects=[f"{name}.>"], retention=retention, allow_msg_schedules=True)
    )
    subscription = await stream.pull_subscribe(reads, "worker", stream=name)
    due = datetime.now(timezone.utc) + timedelta(seconds=DELAY)
    stored = await stream.publish(
        f"{name}.later.1",
        b"delayed",
        headers={"Nats-Schedule": f"@at {due:%Y-%m-%dT%H:%M:%S.%fZ}", "Nats-Schedule-Target": f"{name}.due"},
    )
    held = (await stream.stream_info(name)).state.messages
    await stream.publish(f"{name}.due", b"plain")
    found = await received(subscription)
    print(f"{name}: acknowledged as {stored.seq}, {held} held; then came {found}")
    return stored.seq, held, found


async def main():
    client = await connect()
    stream = client.jetstream()
    interest = await attempt(stream, "interest", RetentionPolicy.INTEREST, "interest.due")
    work = await attempt(stream, "work", RetentionPolicy.WORK_QUEUE, "work.>")
    fair = await attempt(stream, "fair", RetentionPolicy.WORK_QUEUE, "fair.due")
    await client.close()
    return (
        interest == (1, 0, [("interest.due", "plain")])
        and work == (1, 1, [("work.later.1", "delayed"), ("work.due", "plain")])
        and fair == (1, 1, [("fair.due", "plain"), ("fair.due", "delayed")])
    )


sys.exit(0 if asyncio.run(main()) else "It is not as it was.")
PYTHON
