"""beanstalkd, as a tube.

The raw equivalent is greenstalk, on a tube with the same jobs: see the README. Beside the worker stands that of Symfony
Messenger, too, where PHP has it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from subprocess import run

from benchmarks import broker, machine, queues
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure
from benchmarks.queues import Part
from benchmarks.raw.beanstalkd import BATCH, Link, Tube

SYMFONY = Path(__file__).parents[1] / "raw" / "beanstalkd.php"
FEW = 2_000
"""How many messages go through Symfony, so that it takes as long as ours."""


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the server on one core and this process on another."""
    with (
        broker.running("beanstalkd") as url,
        queues.figures(
            partial(Tube, url),
            worker=Part(f"{BATCH} reserve-with-timeout 0 at once, and {BATCH} delete", target=0.7),
            dispatch_many=Part(f"{BATCH} put at once", target=0.5),
            dispatch=Part("put, one by one", target=0.85),
        ) as all_figures,
    ):
        link = Link(url, "default")
        server = link.client.stats()
        link.close()
        libraries = machine.versions("postbus", "postbus-beanstalkd", "greenstalk")
        conditions = {
            "Libraries": f"{libraries}, beanstalkd {server['version']}",
            "Durability": f"{'with' if server['binlog-current-index'] else 'without'} a log; the same for both",
            "Cores": broker.CORES,
        }
        yield conditions, chain(all_figures, _peers(url))


def _peers(url: str) -> Generator[Figure]:
    """Return what Symfony's own worker is like."""
    with queues.Queues(partial(Tube, url)) as made:
        ours = made.ours("ours-too")
        yield Figure(
            name="worker, a handler that does nothing\nbeside it: Symfony Messenger's worker",
            ours=lambda: ours.work_off(queues.WORKED_OFF),
            raw=lambda: _symfony(f"{url}?tube_name=postbus-bench-symfony"),
            target=1.5,
        )


def _symfony(dsn: str) -> float:
    command = ["php", "-dinclude_path=/usr/share/php", str(SYMFONY), dsn, str(FEW)]
    return float(run(command, capture_output=True, text=True, check=True).stdout)
