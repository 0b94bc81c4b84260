#!/bin/sh
# kafka-python 3.0.12 with Apache Kafka 4.2.0: a wrong password is no authentication error, but a time-out, "Unable to
# bootstrap from ...", after as long as one is willing to wait; its cause and its context are empty. The broker does say
# "Authentication failed" and then closes the connection. The client reads both at once, takes note of the end, and
# throws away what came before it, so its own SaslAuthenticationFailedError is never raised, and each attempt is logged
# as "socket disconnected". confluent-kafka 2.16.1 reports what the same broker says.
#
# So on kafka-python nobody can tell a wrong password from a broker that is not there by what is raised: who wants to
# must look at how far each connection had come when it ended.
#
# Needs Java 17, Maven and python3 with venv. Takes about 30 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet kafka-python==3.0.12 confluent-kafka==2.16.1
cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>a</groupId><artifactId>a</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.2.0</version></dependency>
</dependencies></project>
XML
mvn --batch-mode --quiet dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=libs
ports=$(python3 -c 'import socket
both = [socket.socket(), socket.socket()]
for one in both: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in both))')
port=${ports% *} controller=${ports#* }
cat > server.properties <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=SASL_PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=SASL_PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
  username="ada" password="right" user_ada="right";
log.dirs=$folder/data
PROPERTIES
mkdir data
printf 'version=1\ncluster.id=UG9zdGJ1cy10ZXN0cy1ubw\nnode.id=1\ndirectory.id=a4oJ3i13RRb8YcCAQ6Y6iw\n' > data/meta.properties
java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp 'libs/*' kafka.Kafka server.properties > output 2>&1 &
pid=$!
venv/bin/python - "127.0.0.1:$port" <<'PYTHON'
import logging
import sys
import time

from confluent_kafka import Producer
from kafka import KafkaAdminClient
from kafka.errors import KafkaError, KafkaTimeoutError

logging.disable(logging.CRITICAL)
server = sys.argv[1]
login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "ada"}


def connect(password, patience):
    return KafkaAdminClient(
        bootstrap_servers=server, sasl_plain_password=password, bootstrap_timeout_ms=1000 * patience, **login
    )


connect("right", 60).close()
print("With the right password kafka-python comes in.")
raised = []
for patience in (2, 4):
    begun = time.monotonic()
    try:
        connect("wrong", patience)
    except KafkaError as error:
        raised.append(error)
        print(f"With a wrong one, after {time.monotonic() - begun:.1f} s: {error!r}, because of {error.__cause__!r}.")

told = []
rd = {
    "bootstrap.servers": server,
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "ada",
    "sasl.password": "wrong",
    "error_cb": lambda error: told.append(error.str()),
    "log_level": 0,
}
producer = Producer(rd)
for _ in range(100):
    producer.poll(0.1)
    if any("uthentication fail" in text for text in told):
        break
print(f"confluent-kafka says: {told[0] if told else 'nothing'}")
is_hidden = len(raised) == 2 and all(type(error) is KafkaTimeoutError for error in raised)
is_told = any("uthentication fail" in text for text in told)
sys.exit(0 if is_hidden and is_told else "It is not as it was.")
PYTHON
