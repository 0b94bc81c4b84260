#!/bin/sh
# Mosquitto 2.0.11 (Debian 12), shared subscriptions: who is offline gets a share like everybody else. Of six jobs for a
# group of two, one of them offline with a session that is kept, three lie in the session of the one that is not there
# while the other is idle; they come when that client returns under its name, and not before. And what a worker whose
# session ends held unacknowledged when it left goes to no other worker: it is lost, although it was sent with QoS 1 and
# the sender has its acknowledgement.
#
# One would expect that a group of workers shares among those who are there, and that the job of a worker that has gone
# comes to another (MQTT 5 asks a server for that, 4.8.2, when a session ends). So QoS 1 and a shared subscription make
# no work queue here: scaling workers down strands half of what comes, or loses what they held.
#
# Needs Debian 12 (amd64) and its package sources, and python3. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
for package in mosquitto=2.0.11-1.2+deb12u2 libdlt2=2.18.8-6 libcjson1=1.7.15-1+deb12u4 libwrap0=7.6.q-32; do
    apt-get -o APT::Sandbox::User=root download "$package" >/dev/null
done
for package in *.deb; do dpkg-deb --extract "$package" .; done
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check paho-mqtt==2.2.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > broker.conf <<CONF
listener $port 127.0.0.1
allow_anonymous true
persistence false
log_dest none
user $(id -un)
CONF
export LD_LIBRARY_PATH="$folder/usr/lib/x86_64-linux-gnu"
./usr/sbin/mosquitto -h | head -n 1
./usr/sbin/mosquitto -c broker.conf 2>/dev/null &
pid=$!
venv/bin/python - "$port" <<'PYTHON'
import sys, threading, time
from importlib.metadata import version

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT = int(sys.argv[1])
print("paho-mqtt", version("paho-mqtt"))


class Worker:
    """A client that keeps the payloads it got, and is connected, and subscribed where asked, once it is made."""

    def __init__(self, name, topic=None, keep=True, acknowledge=True):
        self.got, ready, subscribed = [], threading.Event(), threading.Event()
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600 if keep else 0  # Seconds after the connection; 0: it ends with it.
        self.client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTv5, manual_ack=not acknowledge)
        self.client.on_message = lambda client, data, message: self.got.append(message.payload.decode())
        self.client.on_connect = lambda *_: ready.set()
        self.client.on_subscribe = lambda *_: subscribed.set()
        for _ in range(100):
            try:
                self.client.connect("127.0.0.1", PORT, clean_start=not keep, properties=session)
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        self.client.loop_start()
        assert ready.wait(20)
        if topic:
            self.client.subscribe(topic, qos=1)
            assert subscribed.wait(20)

    def send(self, topic, *payloads):
        for payload in payloads:
            self.client.publish(topic, payload, qos=1).wait_for_publish(20)  # The broker has acknowledged it.

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


def settle():
    time.sleep(2)


sender, jobs = Worker("sender", keep=False), [f"job {number}" for number in range(6)]

here, gone = Worker("here", "$share/kept/a"), Worker("gone", "$share/kept/a")
gone.leave()
sender.send("a", *jobs)
settle()
print(f"One of two is offline, its session kept. The other got {here.got}.")
back = Worker("gone")
settle()
print(f"The first is back, and got {back.got}.")
stranded = len(here.got) == len(back.got) == 3 and sorted(here.got + back.got) == jobs

other, leaver = (
    Worker("other", "$share/clean/b", keep=False),
    Worker("leaver", "$share/clean/b", keep=False, acknowledge=False),
)
sender.send("b", *jobs)
settle()
held = list(leaver.got)
leaver.leave()
settle()
again = Worker("leaver", "$share/clean/b", keep=False)
settle()
print(f"One of two held {held} unacknowledged and left. The other has {other.got}, a new one got {again.got}.")
lost = len(held) == 3 and not again.got and sorted(held + other.got) == jobs
for worker in sender, here, back, other, again:
    worker.leave()
sys.exit(0 if stranded and lost else "It is not as it was.")
PYTHON
