"""What all packages' tests share: the real brokers, and the table of the contract at the end."""

pytest_plugins = ["tests.brokers.plugin", "tests.contract.table"]
