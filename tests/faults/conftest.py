from collections.abc import Callable, Iterator

import pytest

from tests.faults.report import Report
from tests.faults.table import PROPERTY


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Iterator[Report]:
    """Return a table, whose rows are among those that are printed at the end."""
    report = Report()
    yield report
    for row in report.rows:
        record_property(PROPERTY, row)
