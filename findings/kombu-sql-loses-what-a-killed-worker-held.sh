#!/bin/sh
# kombu 5.7, its transport for databases (sqla+…://, also Celery's): to fetch a message is to mark its row as invisible,
# and commit. Nothing ever takes that mark away but the worker itself when it closes in an orderly way: there is no time
# limit, and acknowledging does nothing to the row. So what a killed worker held is never delivered again, late
# acknowledgement or not, while the queue says that it is empty. What was done and acknowledged stays in the table as
# well, with nothing in it to tell one from the other; so nobody can bring back the lost one without the others.
#
# One would expect a message to be deleted when it is acknowledged, and to be delivered again when it is not: that is
# what a table could do, and what kombu does on Redis (after visibility_timeout) and on AMQP.
#
# Needs python3. Takes about 15 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check kombu==5.7.0 sqlalchemy==2.1.9
cat > worker.py <<'PYTHON'
import multiprocessing, os, signal, sqlite3, sys, time
from importlib.metadata import version

from kombu import Connection, Queue

URL = "sqla+sqlite:///orders.db"


def work_without_end(has_it):
    with Connection(URL) as connection:
        message = Queue("orders")(connection.channel()).get()
        print(f"A worker fetches {message.payload}, does not acknowledge it, and is killed.", flush=True)
        has_it.set()
        time.sleep(600)


def main():
    print("kombu", version("kombu"))
    with Connection(URL) as connection:
        Queue("orders")(connection.channel()).declare()
        for number in range(3):
            connection.Producer().publish(number, exchange="", routing_key="orders")

    has_it = multiprocessing.Event()
    worker = multiprocessing.Process(target=work_without_end, args=(has_it,), daemon=True)
    worker.start()
    has_it.wait(30)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()

    came, until = [], time.monotonic() + 5
    with Connection(URL) as connection:
        queue = Queue("orders")(connection.channel())
        while time.monotonic() < until:
            if message := queue.get():
                came.append(message.payload)
                message.ack()
            time.sleep(0.05)
        left = queue.queue_declare(passive=True).message_count
    rows = sqlite3.connect("orders.db").execute("SELECT id, visible FROM kombu_message ORDER BY id").fetchall()
    print(f"The next worker gets {came} and acknowledges them. The queue says: {left} messages.")
    print(f"The table has {len(rows)} rows (id, visible): {rows}")
    sys.exit(0 if came == [1, 2] and left == 0 and rows == [(1, 0), (2, 0), (3, 0)] else "It is not as it was.")


if __name__ == "__main__":
    main()
PYTHON
venv/bin/python worker.py
