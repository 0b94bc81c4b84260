"""What all packages' tests share: the real brokers."""

pytest_plugins = ["tests.brokers.plugin"]
