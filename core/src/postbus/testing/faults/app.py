"""The app that is put through all this: `postbus consume` runs its workers, `producer` dispatches to it.

The environment says who this process is: see `Role`.
"""

from __future__ import annotations

import faulthandler
import os
import pkgutil
import signal
import time
from pathlib import Path

import msgspec

from postbus import Backoff, Envelope, Postbus, stamps
from postbus.testing.faults.deaths import Point
from postbus.testing.faults.ledger import Handled, Ledger
from postbus.testing.faults.roles import VARIABLE, Role
from postbus.testing.faults.watching import Job, Watch

faulthandler.register(signal.SIGUSR1)  # Writes all stacks to the log, for whoever wants to know why nothing happens.

role = msgspec.json.decode(os.environ[VARIABLE], type=Role)
ledger = Ledger(Path(role.ledger))
watch = Watch(ledger, role.name, role.death)
if role.queues.copying is not None:
    pkgutil.resolve_name(role.queues.copying)(watch.copying)
app = Postbus(
    name="faults",
    transports={"work": role.queues.work, "failed": role.queues.failed},
    failure_transport="failed",
    retry=Backoff(max_retries=2, delay=0.2, factor=1.5, jitter=0.0),  # Two lengths, so two queues where each has one.
    plugins=watch.plugins(role.queues.plugin),
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
    ledger.write(Handled(job.id, role.name))
    watch.reaper.at(Point.RETURNING)
