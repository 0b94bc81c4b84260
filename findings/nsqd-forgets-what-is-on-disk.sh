#!/bin/sh
# nsqd 1.3 with -mem-queue-size=0, which its documentation gives as the way to have every message on disk and to fear
# only for the operating system and the disk: when the process is killed, all that was acknowledged since the last
# "sync" is lost, although it is in the file. What is read again at a start is what the index beside the file counts,
# and that is written each 2 s, or after 2 500 messages. A queue younger than that comes back empty.
#
# One would expect a killed process to lose nothing that it had written: the operating system has it. So an
# acknowledgement of nsqd is a promise only after -sync-timeout, or with -sync-every=1, which is slow.
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
import json, os, pathlib, signal, socket, subprocess, sys, time, urllib.request


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

    def depth(self):
        topics = json.loads(self.ask("/stats?format=json&topic=orders"))["topics"]
        return sum(topic["depth"] for topic in topics)


def survived(name, wait, *options):
    """How many of 100 acknowledged messages are there after a SIGKILL, and how many bytes of them were in the file."""
    folder = pathlib.Path(name)
    with Nsqd(name, "-mem-queue-size=0", *options) as nsqd:
        nsqd.ask("/topic/create?topic=orders", b" ")
        assert nsqd.ask("/mpub?topic=orders", b"\n".join(b"order %02d" % number for number in range(100))) == b"OK"
        assert nsqd.depth() == 100
        time.sleep(wait)
        nsqd.end(signal.SIGKILL)
    size = (folder / "orders.diskqueue.000000.dat").read_bytes().count(b"order ")
    with Nsqd(name, "-mem-queue-size=0", *options) as nsqd:
        left = nsqd.depth()
    print(f"{name}: 100 acknowledged, killed after {wait} s, {size} of them in the file, {left} after the restart")
    return size, left


right = (
    survived("at once", 0) == (100, 0)
    and survived("later", 5) == (100, 100)
    and survived("synced", 0, "-sync-every=1") == (100, 100)
)
sys.exit(0 if right else "It is not as it was.")
PYTHON
