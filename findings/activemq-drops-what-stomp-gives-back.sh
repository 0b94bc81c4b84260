#!/bin/sh
# ActiveMQ 6.1 (classic) and ActiveMQ Artemis 2.42, over STOMP: to give a message back (NACK) is the end of it. Neither
# broker delivers it again, to nobody. Artemis drops it without a trace, also where it is persistent, is marked for ten
# attempts and has a dead-letter address: a NACK is an ACK there. Classic takes it for poison at the first attempt and
# moves it to ActiveMQ.DLQ, if it is persistent; and a message sent by STOMP is so only with the header persistent:true,
# so that one sent without it is dropped here as well. What a worker merely holds when it leaves is delivered again.
#
# One would expect a NACK to requeue, as on RabbitMQ, or to count as a failed attempt, as on both of these brokers a
# rollback does by JMS. (STOMP leaves it to the server.) So a worker that cannot do its job now must send it anew, or
# leave without an answer; nack() in stomp.py deletes.
#
# Needs a JDK (17 or later), Maven, and python3. Takes about 40 s, the first time more. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
cat > pom.xml <<'XML'
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId>
  <artifactId>finding</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.activemq</groupId>
      <artifactId>activemq-stomp</artifactId>
      <version>6.1.7</version>
    </dependency>
    <dependency>
      <groupId>org.apache.activemq</groupId>
      <artifactId>artemis-server</artifactId>
      <version>2.42.0</version>
    </dependency>
    <dependency>
      <groupId>org.apache.activemq</groupId>
      <artifactId>artemis-stomp-protocol</artifactId>
      <version>2.42.0</version>
    </dependency>
  </dependencies>
</project>
XML
cat > Brokers.java <<'JAVA'
import org.apache.activemq.artemis.api.core.QueueConfiguration;
import org.apache.activemq.artemis.api.core.RoutingType;
import org.apache.activemq.artemis.api.core.SimpleString;
import org.apache.activemq.artemis.core.config.impl.ConfigurationImpl;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;
import org.apache.activemq.artemis.core.settings.impl.AddressSettings;
import org.apache.activemq.broker.BrokerService;

public class Brokers {
    public static void main(String[] ports) throws Exception {
        BrokerService classic = new BrokerService();
        classic.setPersistent(false);
        classic.setUseJmx(false);
        classic.addConnector("stomp://127.0.0.1:" + ports[0]);
        classic.start();

        ConfigurationImpl settings = new ConfigurationImpl();
        settings.setPersistenceEnabled(false).setSecurityEnabled(false);
        settings.addAcceptorConfiguration("stomp", "tcp://127.0.0.1:" + ports[1] + "?protocols=STOMP");
        settings.addAddressSetting(
            "#", new AddressSettings().setDeadLetterAddress(SimpleString.of("DLQ")).setMaxDeliveryAttempts(10));
        settings.addQueueConfiguration(QueueConfiguration.of("DLQ").setRoutingType(RoutingType.ANYCAST));
        new EmbeddedActiveMQ().setConfiguration(settings).start();
    }
}
JAVA
mvn -B -q org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory=libs >build 2>&1 || { cat build >&2; exit 1; }
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check stomp-py==9.0.0
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
classic=$(free)
artemis=$(free)
java -cp 'libs/*' Brokers.java "$classic" "$artemis" >log 2>&1 &
pid=$!
venv/bin/python - "$classic" "$artemis" <<'PYTHON'
import logging, queue, sys, time
from importlib.metadata import version

import stomp

logging.disable()  # Each try to connect while the brokers start.
ANYCAST = {"subscription-type": "ANYCAST"}  # Artemis: a queue, not a topic. Nothing to the other one.


class Inbox(stomp.ConnectionListener):
    def __init__(self):
        self.frames = queue.Queue()

    def on_message(self, frame):
        self.frames.put(frame)

    def all(self):
        found = []
        while True:
            try:
                found.append(self.frames.get(timeout=2))
            except queue.Empty:
                return found


def connect(port):
    connection, inbox = stomp.Connection12([("127.0.0.1", port)]), Inbox()
    connection.set_listener("", inbox)
    for _ in range(240):
        try:
            connection.connect("guest", "guest", wait=True)
            return connection, inbox
        except stomp.exception.ConnectFailedException:
            time.sleep(0.5)
    sys.exit("The broker does not answer.")


def bodies(frames):
    return " ".join(frame.body for frame in frames)


def attempt(port, name, headers, dead_letters):
    """What comes again when 0 was given back, 1 acknowledged, and 2 neither; and what is with the dead letters."""
    worker, inbox = connect(port)
    worker.subscribe(name, "worker", ack="client-individual", headers=ANYCAST)
    for body in "012":
        worker.send(name, body, headers={"destination-type": "ANYCAST", **headers})
    frames = inbox.all()
    assert bodies(frames) == "0 1 2", frames
    worker.nack(frames[0].headers["ack"])
    worker.ack(frames[1].headers["ack"])
    again = inbox.all()
    worker.disconnect()
    worker, inbox = connect(port)
    worker.subscribe(name, "worker", ack="client-individual", headers=ANYCAST)
    again += inbox.all()
    worker.subscribe(dead_letters, "dead", headers=ANYCAST)
    dead = inbox.all()
    worker.disconnect()
    return bodies(again), bodies(dead)


print("stomp.py", version("stomp-py"))
right = True
for broker, port, dead_letters in ("Classic", sys.argv[1], "/queue/ActiveMQ.DLQ"), ("Artemis", sys.argv[2], "DLQ"):
    for kind, headers in ("plain", {}), ("persistent", {"persistent": "true"}):
        again, dead = attempt(int(port), f"/queue/{kind}", headers, dead_letters)
        print(f"{broker}, {kind}: delivered again: {again or 'none'}; dead letters: {dead or 'none'}")
        kept = "0" if (broker, kind) == ("Classic", "persistent") else ""
        right = right and (again, dead) == ("2", kept)
sys.exit(0 if right else "It is not as it was.")
PYTHON
