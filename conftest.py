"""What all packages' tests share: the real brokers, and the tables at the end: of the contract, and of the faults."""

from hypothesis import settings

pytest_plugins = [
    "tests.brokers.plugin",
    "tests.contract.table",
    "tests.faults.table",
    "tests.parallel.plugin",
]

# No test asserts a duration: a busy machine takes its time.
settings.register_profile("postbus", settings(), deadline=None)
settings.load_profile("postbus")
