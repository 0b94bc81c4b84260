"""What all packages' tests share: the real brokers, and the tables at the end: of the contract, and of the faults."""

pytest_plugins = ["tests.brokers.plugin", "tests.contract.table", "tests.faults.table", "tests.parallel.plugin"]
