#!/bin/sh
# kombu 5.7, its transport for files (filesystem://, which Celery offers for a broker without a server): a consumer that
# polls while another process sends now and then loses a message for good. The sender makes the file under its final
# name and writes it afterwards; the consumer moves it away in between, finds it empty, raises a JSONDecodeError, and
# the file is gone by then. The lock that the sender takes on it is one that the consumer never asks for. And messages
# that were sent within the same millisecond come in the order of a random part of their file's name.
#
# One would expect a file to appear only once it is whole (written beside, and renamed), as Maildir has it for thirty
# years, and a queue to be first in, first out for a single sender. Each run lost 40 to 230 of 1 000.
#
# Needs python3. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check kombu==5.7.0
mkdir files
cat > queues.py <<'PYTHON'
import multiprocessing, os, sys
from importlib.metadata import version
from json import JSONDecodeError

from kombu import Connection, Queue

MOST, ENOUGH = 30_000, 5  # Messages sent at most, and lost ones that settle it.


def connect():
    folders = {"data_folder_in": "files", "data_folder_out": "files", "control_folder": "control"}
    return Connection("filesystem://", transport_options=folders)


def send(queue, start, count):
    with connect() as connection:
        producer = connection.Producer()
        for number in range(start, start + count):
            producer.publish(number, exchange="", routing_key=queue)


def receive(queue, sender=None):
    """What is there, and what comes until the sender is done; with the number of messages that could not be read."""
    got, unread = [], 0
    with connect() as connection:
        channel = connection.channel()
        while True:
            done = sender is None or not sender.is_alive()
            try:
                message = Queue(queue)(channel).get()
            except JSONDecodeError:
                unread += 1
                continue
            if message is not None:
                got.append(message.payload)
                message.ack()
            elif done:
                return got, unread


def main():
    print("kombu", version("kombu"))
    send("order", 0, 2000)
    order, _ = receive("order")
    places = sum(place != number for place, number in enumerate(order))
    print(f"2000 sent, then received: {len(order)} came, {places} of them not in their place")

    sent, got, unread = 0, [], 0
    while sent < MOST and unread < ENOUGH:
        sender = multiprocessing.Process(target=send, args=("race", sent, 1000))
        sender.start()
        came, failed = receive("race", sender)
        sender.join()
        sent, got, unread = sent + 1000, got + came, unread + failed
    lost = sorted(set(range(sent)) - set(got))
    left = os.listdir("files")
    print(f"{sent} sent while they were received: {len(lost)} lost, {unread} errors, {len(left)} files left")
    print(f"Lost, for example: {lost[:5]}")
    right = len(order) == 2000 and places and lost and len(lost) == unread and not left
    sys.exit(0 if right else "It is not as it was.")


if __name__ == "__main__":
    main()
PYTHON
venv/bin/python queues.py
