"""What all packages' tests share: the real brokers, and the tables at the end: of the contract, and of the faults."""

import os

from hypothesis import settings

pytest_plugins = [
    "tests.brokers.plugin",
    "tests.contract.proven",
    "tests.contract.table",
    "tests.faults.table",
    "tests.parallel.plugin",
]

# No test asserts a duration: a busy machine takes its time.
settings.register_profile("postbus", settings(), deadline=None)
settings.load_profile("postbus")

# A new rule of the contract is an error here at once, also in the processes that judge mutants.
os.environ.setdefault("POSTBUS_CONTRACT", "next")
