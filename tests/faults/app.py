"""The app that is put through all this: `postbus consume` runs its workers, `producer` dispatches to it.

The environment says where its messages go, where the ledger is, who this process is, and how it is to die.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

import msgspec

from postbus import Backoff, Envelope, Postbus, stamps
from tests.faults.deaths import Death, Point
from tests.faults.ledger import Handled, Ledger
from tests.faults.subjects import find_subjects
from tests.faults.watching import Job, Watch

faulthandler.register(signal.SIGUSR1)  # Writes all stacks to the log, for whoever wants to know why nothing happens.

NAME = os.environ["FAULTS_NAME"]

ledger = Ledger(Path(os.environ["FAULTS_LEDGER"]))
watch = Watch(ledger, NAME, msgspec.json.decode(os.environ.get("FAULTS_DEATH", "null"), type=Death | None))
work = os.environ["FAULTS_WORK_DSN"]
for subject in find_subjects():
    if subject.copying is not None and work.startswith(f"{subject.scheme}:"):
        subject.copying(watch.copying)
app = Postbus(
    name="faults",
    transports={"work": work, "failed": os.environ["FAULTS_FAILED_DSN"]},
    failure_transport="failed",
    retry=Backoff(max_retries=2, delay=0.2, factor=1.5, jitter=0.0),  # Two lengths, so two queues where each has one.
    plugins=watch.plugins(),
)
app.message("job", transport="work")(Job)


@app.handler
def do(job: Job, envelope: Envelope) -> None:
    """Do what the kind of job says, and write it down before returning."""
    watch.reaper.at(Point.HANDLING)
    if job.kind == "slow":
        time.sleep(0.02)
    if job.kind == "doomed" or (job.kind == "flaky" and not envelope.has(stamps.Retried)):
        raise ValueError(f"a {job.kind} one")
    ledger.write(Handled(job.id, NAME))
    watch.reaper.at(Point.RETURNING)
