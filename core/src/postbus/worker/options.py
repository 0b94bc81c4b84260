"""How a worker is to work: one value, which goes from the app down to whatever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from postbus.errors import ConfigurationError
from postbus.limits import GRACE, PREFETCH_BYTES, Limits
from postbus.worker.kill_switch import KillSwitch
from postbus.worker.rates import RateLimit
from postbus.worker.strategies import Strategy


class Options(Struct, frozen=True, kw_only=True):
    """How a worker is to work; what is said of transports is said by their names."""

    limits: Limits = Limits()
    queues: Sequence[str] = ()
    """The only ones to fetch from; all, if none is named."""
    concurrency: int = 1
    """How many messages are handled at once."""
    fetch_size: int | None = None
    """How many messages are fetched at once; None for as many as fit."""
    prefetch_bytes: int | None = PREFETCH_BYTES
    """How many bytes the messages have together, about, that no handler has; None for any number."""
    strategy: Strategy = "strict"
    weights: Mapping[str, int] = field(default_factory=dict[str, int])
    rates: Mapping[str, RateLimit] = field(default_factory=dict[str, RateLimit])
    kill_switches: Mapping[str, KillSwitch] = field(default_factory=dict[str, KillSwitch])
    grace: float | None = GRACE
    """Seconds for which handlers may go on after the worker was told to stop; None for as long as they take."""
    max_outage: float | None = None
    """Seconds after which a broker that is away ends the worker; None for never."""
    health_file: Path | None = None
    reset: bool = True
    """Whether what `Postbus.provide` has made, and can be reset, is so after each message."""

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigurationError(f"The concurrency must be 1 or more, got {self.concurrency}.")
        if self.prefetch_bytes is not None and self.prefetch_bytes < 1:
            raise ConfigurationError(f"The bytes to prefetch must be 1 or more, got {self.prefetch_bytes}.")
