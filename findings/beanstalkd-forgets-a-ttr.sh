#!/bin/sh
# beanstalkd 1.12 (Debian 12): a job whose ttr is over is, now and then, never given back, as long as the connection
# that reserved it stays open and says nothing. The protocol promises that the server releases it then. stats-job goes
# on to say "reserved", with a time-left below zero. It happened to 79, and to 137, of 300, each with a connection of
# its own; closing that gives the job back at once.
#
# So on beanstalkd a time limit alone does not bring back what a worker holds that hangs with its connection open.
#
# Needs Debian 12 (amd64) and its package sources, and python3. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
apt-get -o APT::Sandbox::User=root download beanstalkd=1.12-2+b1 >/dev/null
dpkg-deb --extract beanstalkd_*.deb .
./usr/bin/beanstalkd -v
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
./usr/bin/beanstalkd -l 127.0.0.1 -p "$port" &
pid=$!
python3 - "$port" <<'PYTHON'
import re, socket, sys, time

JOBS, TTR = 300, 1


def connect():
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("beanstalkd does not answer.")


def ask(link, command, end=b"\r\n"):
    link.sendall(command)
    answer = b""
    while not answer.endswith(end):
        answer += link.recv(4096)
    return answer


looking, links, ids = connect(), [], []
for _ in range(JOBS):
    link = connect()
    ids.append(int(ask(link, b"put 0 0 %d 3\r\njob\r\n" % TTR).split()[1]))
    assert b"RESERVED" in ask(link, b"reserve\r\n", b"job\r\n")
    links.append(link)
    time.sleep(0.01)
time.sleep(TTR + 5)  # Each is over for five seconds now.


def overdue():
    stuck = []
    for id in ids:
        told = ask(looking, b"stats-job %d\r\n" % id, b"\n\r\n").decode()
        state, left = re.search(r"state: (\w+)", told)[1], int(re.search(r"time-left: (-?\d+)", told)[1])
        if state == "reserved" and left < -2:
            stuck.append((id, left))
    return stuck


stuck = overdue()
print(f"{len(stuck)} of {JOBS} jobs with a ttr of {TTR} s are still reserved, for example {stuck[:3]} (id, time-left).")
for link in links:
    link.close()
time.sleep(1)
left = overdue()
print(f"{len(left)} of them after their connections were closed.")
sys.exit(0 if stuck and not left else "It is not as it was.")
PYTHON
