import sys
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:  # The mutants are imported by their name, by processes other than pytest too.
    sys.path.append(ROOT)


@pytest.fixture(scope="session")
def verdicts(request: pytest.FixtureRequest) -> Mapping[str, Future[Mapping[str, str]]]:
    """Judge each transport that a selected test asks about, side by side; return what the rules will say.

    A mutant is put through the groups of rules that it is about: all of them on each take minutes, and are for
    ``python -m tests.contract``.
    """
    from tests.contract import proof
    from tests.contract.healthy import HEALTHY

    judged = [item for item in request.session.items if "verdicts" in getattr(item, "fixturenames", ())]
    calls = [item.callspec for item in judged if hasattr(item, "callspec")]
    asked = {call.params["transport"] for call in calls if "transport" in call.params}
    return proof.prove(asked | {connection.__name__ for connection in HEALTHY}, whole=False)
