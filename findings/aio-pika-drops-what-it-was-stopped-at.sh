#!/bin/sh
# aio-pika 10.2 (RabbitMQ for asyncio): a worker that is stopped in an orderly way loses the message that it is working on.
# Ctrl-C ends "async with message.process()" with a CancelledError; that is taken for a failure of the handler, and a
# failed message is rejected without requeueing, unless one asked for it. In a queue without a dead-letter exchange it
# is gone. The same worker, killed with SIGKILL, loses nothing: RabbitMQ gives the message to the next one.
#
# One would expect the gentle way to be the safe one, and a message whose handler was interrupted to be delivered again,
# as the CancelledError is nobody's fault. So use process(requeue=True), and count the attempts, or acknowledge by hand.
#
# Needs Debian 12 (amd64), its package sources, and Python 3.11 or later. Takes about a minute. Exits with 0 if it is as
# said.
set -eu
folder=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" 2>/dev/null || true; done; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
erlang=$(printf 'erlang-%s=1:25.2.3+dfsg-1+deb12u4 ' asn1 base crypto eldap ftp inets mnesia os-mon parsetools public-key \
    runtime-tools snmp ssl syntax-tools tftp tools xmerl)
apt-get -o APT::Sandbox::User=root download rabbitmq-server=3.10.8-1.1+deb12u1 $erlang >/dev/null
for package in *.deb; do dpkg-deb --extract "$package" .; done
sed -i "s#/usr/lib/erlang#$folder/usr/lib/erlang#g" usr/lib/erlang/bin/erl  # It names where it is installed.
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check aio-pika==10.2.1
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free)
export PATH="$folder/usr/lib/erlang/bin:$PATH" HOME="$folder" ERL_EPMD_ADDRESS=127.0.0.1
ERL_EPMD_PORT=$(free)
RABBITMQ_DIST_PORT=$(free)
export ERL_EPMD_PORT RABBITMQ_DIST_PORT RABBITMQ_NODENAME=finding@localhost
export RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$port" RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_MNESIA_BASE="$folder/data" RABBITMQ_LOG_BASE="$folder/log" RABBITMQ_PID_FILE="$folder/pid"
export RABBITMQ_CONFIG_FILE="$folder/none" RABBITMQ_ADVANCED_CONFIG_FILE="$folder/none.config"
export RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins"
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false'
usr/lib/erlang/erts-*/bin/epmd &
pids=$!
RUNNING_UNDER_SYSTEMD=yes usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8/sbin/rabbitmq-server -noinput >server 2>&1 &
pids="$! $pids"
cat > worker.py <<'PYTHON'
import asyncio, signal, sys

import aio_pika


async def main():
    connection = await aio_pika.connect_robust(sys.argv[1])
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.declare_queue("jobs", durable=True)
        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process():
                    print(message.body.decode(), flush=True)
                    await asyncio.sleep(600)


signal.signal(signal.SIGINT, signal.default_int_handler)  # As in a terminal, also where this runs in the background.
asyncio.run(main())
PYTHON
cat > stop.py <<'PYTHON'
import asyncio, logging, signal, sys
from importlib.metadata import version

import aio_pika

logging.disable()  # Each try to connect while RabbitMQ starts.
URL = f"amqp://guest:guest@127.0.0.1:{sys.argv[1]}/"


async def connect():
    for _ in range(240):
        try:
            return await aio_pika.connect(URL)
        except (aio_pika.exceptions.AMQPError, OSError):
            await asyncio.sleep(0.25)
    sys.exit("RabbitMQ does not answer.")


async def left_after(channel, stop):
    """What is in the queue after a worker that held its only message got a signal, and ended."""
    queue = await channel.declare_queue("jobs", durable=True)
    await channel.default_exchange.publish(aio_pika.Message(b"job"), "jobs")
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "worker.py", URL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert await asyncio.wait_for(worker.stdout.readline(), 60) == b"job\n"
        worker.send_signal(stop)
        await asyncio.wait_for(worker.wait(), 60)
    finally:
        if worker.returncode is None:
            worker.kill()
    message = await queue.get(fail=False)
    for _ in range(20):  # RabbitMQ may need a moment to notice that a connection is gone.
        if message is not None:
            await message.ack()
            return 1
        await asyncio.sleep(0.25)
        message = await queue.get(fail=False)
    return 0


async def main():
    async with await connect() as connection:
        channel = await connection.channel()
        print("RabbitMQ", connection.transport.connection.server_properties["version"], "aio-pika", version("aio-pika"))
        stopped = await left_after(channel, signal.SIGINT)
        killed = await left_after(channel, signal.SIGKILL)
    print(f"Messages for the next worker: {stopped} after Ctrl-C, {killed} after SIGKILL")
    return stopped, killed


sys.exit(0 if asyncio.run(main()) == (0, 1) else "It is not as it was.")
PYTHON
venv/bin/python stop.py "$port"
