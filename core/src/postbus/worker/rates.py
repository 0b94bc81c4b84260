"""How many messages of a transport may be handled in a time."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from postbus.dsn import masked
from postbus.errors import ConfigurationError

if TYPE_CHECKING:
    from limits.strategies import MovingWindowRateLimiter
    from limits.util import WindowStats

logger = logging.getLogger("postbus")


class RateLimit:
    """A number of messages in a time, such as ``100/second``, for all who name the same key in the same store.

    A window that moves: in any stretch of that time there are no more. While the store cannot be reached,
    there are none.
    """

    LATER = 1.0
    """Seconds after which a store is asked again that could not be reached."""

    def __init__(self, rate: str, *, key: str, store: str = "memory://") -> None:
        try:
            # Only for who wants it; see the extra of the same name.
            from limits import parse  # noqa: PLC0415
            from limits.errors import ConfigurationError as LimitsError  # noqa: PLC0415
            from limits.errors import StorageError  # noqa: PLC0415
            from limits.storage import storage_from_string  # noqa: PLC0415
            from limits.strategies import MovingWindowRateLimiter  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError("rate_limit needs limits. Install it: pip install 'postbus[limits]'") from None
        try:
            self._rate = parse(rate)
        except ValueError:
            raise ConfigurationError(
                f"{masked(rate)!r} is no rate. Write for example 100/second, 10/minute, or 5 per 2 hours."
            ) from None

        def connect() -> MovingWindowRateLimiter:
            try:
                return MovingWindowRateLimiter(storage_from_string(store, wrap_exceptions=True))
            except (LimitsError, NotImplementedError, ValueError) as error:
                # What the store is called may hold a password.
                raise ConfigurationError(
                    f"rate_limit_store cannot be used: {type(error).__name__}. Write for example "
                    "redis://localhost:6379, and install the client of that store."
                ) from None
            except Exception as error:  # A border: some clients connect here, and fail in their own way.
                raise StorageError(error) from error

        self._key = key
        self._connect = connect
        self._limiter: MovingWindowRateLimiter | None = None
        self._is_lost = False
        try:
            self._limiter = connect()
        except StorageError as error:
            self._note_lost(error)

    def allowed(self) -> int:
        """Return how many more there may be now."""
        stats = self._stats()
        return stats.remaining if stats is not None else 0

    def wait(self) -> float:
        """Return in how many seconds there may be one more, if there may be none now."""
        stats = self._stats()
        return max(0.0, stats.reset_time - time.time()) if stats is not None else self.LATER

    def take(self, number: int) -> int:
        """Use up to so many of what is allowed; return how many that were, since others may have been faster."""
        granted = number
        try:
            limiter = self._reach()
            while granted > 0 and not limiter.hit(self._rate, self._key, cost=granted):
                granted = min(granted - 1, self.allowed())
        except Exception as error:  # A border: whatever is wrong with the store, it is to be asked again later.
            self._note_lost(error)
            return 0
        return granted

    def count_under(self, key: str) -> None:
        """Share the number with whoever names this key from now on."""
        self._key = key

    def _reach(self) -> MovingWindowRateLimiter:
        self._limiter = self._limiter or self._connect()
        return self._limiter

    def _stats(self) -> WindowStats | None:
        try:
            stats = self._reach().get_window_stats(self._rate, self._key)
        except Exception as error:  # A border, as in `take`.
            self._note_lost(error)
            return None
        self._is_lost = False
        return stats

    def _note_lost(self, error: Exception) -> None:
        if not self._is_lost:
            # Its own words may hold the password: Redis repeats an AUTH that it does not understand.
            kind = type(error.__cause__ or error).__name__
            logger.warning("Fetching nothing, because the store of the rate limit cannot be reached: %s.", kind)
        self._is_lost = True
