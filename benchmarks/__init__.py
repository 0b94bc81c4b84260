"""How fast Postbus is, beside the raw equivalent in the same run: ``python -m benchmarks``."""
