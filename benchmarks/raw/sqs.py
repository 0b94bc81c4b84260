"""boto3 alone, on a standard queue: ``python -m benchmarks.raw.sqs URL QUEUE`` receives pings.

Batches of ten, in as many threads as were fastest: see the README.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

BATCH = 10
THREADS = 10


class Queue:
    """A standard queue. The client is as it comes, but for the number of its connections."""

    def __init__(self, url: str, name: str, message: Any = None) -> None:
        self.dsn = f"sqs://key:secret@{urlsplit(url).netloc}/{name}?sslmode=disable&region=us-east-1"
        self.listener: Sequence[str] = ("benchmarks.raw.sqs", url, name)
        self._address = f"http://{urlsplit(url).netloc}"
        self._name = name
        self._message = message
        self._client = self._connect()

    def setup(self) -> None:
        self._client.create_queue(QueueName=self._name)

    def pop(self) -> Any:
        answer = self._client.receive_message(QueueUrl=self._url, WaitTimeSeconds=5, MessageAttributeNames=["All"])
        [message] = answer["Messages"]
        self._client.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return {"MessageBody": message["Body"], "MessageAttributes": message["MessageAttributes"]}

    def store(self, count: int) -> None:
        url = self._url

        def send(size: int) -> None:
            entries = [{"Id": str(number), **self._message} for number in range(size)]
            self._client.send_message_batch(QueueUrl=url, Entries=entries)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(send, [BATCH] * (count // BATCH) + [count % BATCH] * bool(count % BATCH)))

    def store_singly(self, count: int) -> None:
        url = self._url
        for _ in range(count):
            self._client.send_message(QueueUrl=url, **self._message)

    def take(self, count: int) -> None:
        url, lock = self._url, threading.Lock()
        left = count

        def work(client: Any) -> None:
            nonlocal left
            while left > 0:
                messages = self._receive(client, url, 1)
                self._delete(client, url, messages)
                with lock:
                    left -= len(messages)

        with closing(self._connect()) as client, ThreadPoolExecutor(THREADS) as pool:
            for future in [pool.submit(work, client) for _ in range(THREADS)]:
                future.result()

    def ping(self, sent_at: float) -> None:
        self._client.send_message(QueueUrl=self._url, MessageBody=repr(sent_at))

    def listen(self) -> None:
        """Tell how old each ping is."""
        url = self._url
        print("ready", flush=True)
        while True:
            messages = self._receive(self._client, url, 20)
            for message in messages:
                print(time.monotonic() - float(message["Body"]), flush=True)
            self._delete(self._client, url, messages)

    def empty(self) -> None:
        self._client.purge_queue(QueueUrl=self._url)

    def delete(self) -> None:
        with suppress(self._client.exceptions.QueueDoesNotExist):
            self._client.delete_queue(QueueUrl=self._url)

    def close(self) -> None:
        self._client.close()

    @property
    def _url(self) -> str:
        return str(self._client.get_queue_url(QueueName=self._name)["QueueUrl"])

    def _connect(self) -> Any:
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        return boto3.client("sqs", endpoint_url=self._address, config=Config(max_pool_connections=THREADS), **keys)

    def _receive(self, client: Any, url: str, wait: int) -> Sequence[Any]:
        answer = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=wait,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        messages: Sequence[Any] = answer.get("Messages", ())
        return messages

    def _delete(self, client: Any, url: str, messages: Sequence[Any]) -> None:
        entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
        if entries:
            client.delete_message_batch(QueueUrl=url, Entries=entries)


if __name__ == "__main__":
    Queue(*sys.argv[1:]).listen()
