"""Whatever dies or goes away in the middle, no message is lost."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from postbus.plugins import installed_plugins
from postbus.testing.faults import kills, restarts
from postbus.testing.faults.deaths import Point
from tests.faults import outages
from tests.faults.outages import NETWORK
from tests.faults.report import Report
from tests.faults.subjects import Subject, find_subjects

SEED = 1

MESSAGES = 1000
"""How many go through a broker that is broken; `./run faults` takes more."""

PAUSE = 6.0
"""Seconds for which a broker is halted: longer than a heartbeat, a lease, and anybody's patience in these tests."""

pytestmark = [pytest.mark.slow, pytest.mark.once, pytest.mark.timeout(600)]


SUBJECTS = [
    pytest.param(subject, id=subject.name, marks=pytest.mark.broker(subject.broker)) for subject in find_subjects()
]

FIRST = list({one.values[0].scheme: one for one in reversed(SUBJECTS) if not one.values[0].is_left_alone}.values())
"""One of each scheme, for faults of workers; `./run faults` has them on all kinds of queue."""

LEFT_ALONE = [one for one in SUBJECTS if one.values[0].is_left_alone]


@pytest.fixture
def broker(subject: Subject, request: pytest.FixtureRequest) -> Any:
    """Return the broker of the subject, mended."""
    return request.getfixturevalue(subject.broker)


def test_every_durable_transport_is_put_through_faults() -> None:
    """A plugin whose transport survives a restart, and serves several processes, says how to come to its queues."""
    schemes = installed_plugins().schemes
    durable = {
        scheme.plugin.name
        for scheme in schemes.values()
        if scheme.guarantees is not None and scheme.guarantees.durable and scheme.guarantees.shared
    }

    assert durable == {schemes[subject.scheme].plugin.name for subject in find_subjects()}


@pytest.mark.parametrize("subject", FIRST)
def test_killed_workers_lose_nothing(subject: Subject, broker: Any, tmp_path: Path, report: Report) -> None:
    """Wherever a worker dies, each message is handled or buried, and again only if one died with it in its hands."""
    number = len(Point)

    report.run(
        subject.name,
        f"{number} kills",
        SEED,
        lambda: kills.run(subject.new_queues(broker.dsn), tmp_path, kills=number, seed=SEED),
    )


@pytest.mark.parametrize("subject", [*FIRST, *LEFT_ALONE])
def test_replaced_workers_lose_and_repeat_nothing(
    subject: Subject, broker: Any, tmp_path: Path, report: Report
) -> None:
    """A rolling restart by SIGTERM leaves no message unhandled, and has none handled twice; all exit codes are 0."""
    report.run(
        subject.name,
        f"{subject.restarts} restarts",
        SEED,
        lambda: restarts.run(subject.new_queues(broker.dsn), tmp_path, restarts=subject.restarts, seed=SEED),
    )


def faults_for(subject: Subject) -> list[str]:
    """Return what is done to the broker of a subject; to the way to it, for the first of its kinds of queue only."""
    first = next(other for other in find_subjects() if (other.broker, other.scheme) == (subject.broker, subject.scheme))
    faults = [fault for fault in dict.fromkeys(subject.faults) if fault not in NETWORK or subject.name == first.name]
    random.Random(SEED).shuffle(faults)
    return faults


@pytest.mark.parametrize("subject", [one for one in SUBJECTS if one.values[0].faults])
def test_a_broken_broker_costs_nothing(subject: Subject, broker: Any, tmp_path: Path, report: Report) -> None:
    """Whatever is done to a broker, no message is lost once its dispatch has returned, and no worker stays deaf."""
    faults = faults_for(subject)

    report.run(
        subject.name,
        ", ".join(faults),
        SEED,
        lambda: outages.run(subject, faults, broker, tmp_path, seed=SEED, messages=MESSAGES, pause=PAUSE),
    )
