#!/bin/sh
# kafka-python 3.0.12: a KafkaConsumer, or KafkaAdminClient, whose constructor raises because no broker could be reached
# in time ("Unable to bootstrap from ...") leaves its thread "kafka-io-..." behind for good, with four file descriptors.
# Nobody has the object, so nobody can close it, and the garbage collector cannot either, because the thread holds it.
# A KafkaProducer that fails in the same way leaves nothing.
#
# So a program that tries again until its brokers are back runs out of file descriptors. Who constructs a client has to
# keep a hand on its network, which is there before the constructor raises, and close that.
#
# Needs python3 with venv. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet kafka-python==3.0.12
venv/bin/python - <<'PYTHON'
import gc
import logging
import os
import socket
import sys
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaTimeoutError

logging.disable(logging.CRITICAL)
taken = socket.socket()
taken.bind(("127.0.0.1", 0))  # Nobody listens there, so each attempt is refused.
server = f"127.0.0.1:{taken.getsockname()[1]}"


def resources():
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


left = {}
for kind in (KafkaConsumer, KafkaAdminClient, KafkaProducer):
    threads, files = resources()
    for _ in range(5):
        try:
            kind(bootstrap_servers=server, bootstrap_timeout_ms=300)
        except KafkaTimeoutError as error:
            raised = repr(error)  # Not the error itself, whose traceback would hold the client.
    gc.collect()
    time.sleep(2)
    now_threads, now_files = resources()
    left[kind.__name__] = now_threads - threads, now_files - files
    print(f"{kind.__name__}, five times {raised}: {now_threads - threads} threads and {now_files - files} files left.")

consumer, admin, producer = left.values()
is_so = consumer[0] == admin[0] == 5 and producer == (0, 0) and consumer[1] == admin[1] == 20
sys.exit(0 if is_so else "It is not as it was.")
PYTHON
