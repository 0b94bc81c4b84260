"""Real brokers for tests: found in the environment, started from an installed program, or installed."""
