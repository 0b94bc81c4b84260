#!/bin/sh
# nsqd 1.3: the delay of a message (DPUB, REQ) lives in memory only. After an orderly stop and a start, each delayed
# message, also one that a worker gave back to be retried later, is delivered at once. And no stop is needed: what does
# not fit into -mem-queue-size on its way goes over the disk and loses its delay there, so that with a small one most of
# a burst of delayed messages comes immediately. All of them were accepted, and counted as sent.
#
# One would expect that an accepted delay is kept, or that the message comes late. So the time belongs into the message,
# and the worker has to look at it; a retry with backoff ends with each deployment of nsqd.
#
# Needs go (1.21 or later) and python3. Takes about 20 s, the first time more. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
cat > go.mod <<'GO'
module nsq

go 1.21

require github.com/nsqio/nsq v1.3.0

replace github.com/judwhite/go-svc => github.com/mreiferson/go-svc v1.2.2-0.20210815184239-7a96e00010f6
GO
GOFLAGS=-mod=mod go build -o nsqd github.com/nsqio/nsq/apps/nsqd 2>build || { cat build >&2; exit 1; }
./nsqd -version
python3 - <<'PYTHON'
import json, os, signal, socket, struct, subprocess, sys, time, urllib.request

HOUR = 3_600_000  # ms, the longest delay that is accepted.


class Nsqd:
    """nsqd on its own folder; the end of the block, however it comes, ends the process."""

    def __init__(self, folder, *options):
        os.makedirs(folder, exist_ok=True)
        self.tcp, self.http = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        ports = [server.getsockname()[1] for server in (self.tcp, self.http)]
        self.tcp.close()
        self.http.close()
        self.tcp, self.http = ports
        self.process = subprocess.Popen(
            ["./nsqd", f"-tcp-address=127.0.0.1:{self.tcp}", f"-http-address=127.0.0.1:{self.http}"]
            + ["-broadcast-address=127.0.0.1", f"-data-path={folder}", *options],
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        for _ in range(200):
            try:
                self.ask("/ping")
                return self
            except OSError:
                time.sleep(0.05)
        raise SystemExit("nsqd does not answer.")

    def __exit__(self, *_):
        self.end(signal.SIGKILL)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait()

    def ask(self, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", body, method="POST" if body else "GET")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def counts(self):
        """How many are delayed, and how many wait to be delivered."""
        (topic,) = json.loads(self.ask("/stats?format=json&topic=orders"))["topics"]
        (channel,) = topic["channels"]
        return channel["deferred_count"], topic["depth"] + channel["depth"]

    def connect(self):
        link = socket.create_connection(("127.0.0.1", self.tcp), 20)
        link.sendall(b"  V2")
        return link


def frame(link):
    def read(size):
        found = b""
        while len(found) < size:
            found += link.recv(size - len(found))
        return found

    size, kind = struct.unpack(">ii", read(8))
    return kind, read(size - 4)


def publish(nsqd, count):
    link = nsqd.connect()
    for number in range(count):
        body = b"order %d" % number
        link.sendall(b"DPUB orders %d\n" % HOUR + struct.pack(">i", len(body)) + body)
    assert all(frame(link) == (0, b"OK") for _ in range(count))
    link.close()
    time.sleep(1)


def give_back(nsqd):
    """Takes a message, and gives it back for an hour from now."""
    link = nsqd.connect()
    link.sendall(b"SUB orders workers\nRDY 1\n")
    assert frame(link) == (0, b"OK")
    kind, message = frame(link)
    assert kind == 2
    link.sendall(b"REQ " + message[10:26] + b" %d\nRDY 0\n" % HOUR)
    time.sleep(1)
    link.close()


def prepare(nsqd):
    nsqd.ask("/topic/create?topic=orders", b" ")
    nsqd.ask("/channel/create?topic=orders&channel=workers", b" ")


with Nsqd("restart") as nsqd:
    prepare(nsqd)
    nsqd.ask("/pub?topic=orders", b"to be retried")
    give_back(nsqd)
    publish(nsqd, 9)
    before = nsqd.counts()
    nsqd.end(signal.SIGTERM)
with Nsqd("restart") as nsqd:
    after = nsqd.counts()
print(f"10 delayed by an hour: {before[0]} delayed, {before[1]} due")
print(f"After a restart: {after[0]} delayed, {after[1]} due")

with Nsqd("burst", "-mem-queue-size=10") as nsqd:
    prepare(nsqd)
    publish(nsqd, 3000)
    burst = nsqd.counts()
print(f"3000 delayed by an hour, -mem-queue-size=10: {burst[0]} delayed, {burst[1]} due at once")
right = before == (10, 0) and after == (0, 10) and sum(burst) == 3000 and burst[1] > 0
sys.exit(0 if right else "It is not as it was.")
PYTHON
