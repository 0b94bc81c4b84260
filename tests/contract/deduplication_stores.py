"""What `postbus.deduplication.Store` promises, for the stores of the core and of plugins."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest

from postbus.deduplication import Store
from tests.brokers.server import wait_until


class StoreContract:
    """A subclass has a fixture ``store``."""

    @pytest.fixture
    def key(self) -> str:
        """Return a key of this test, with more in it than letters."""
        return f"é 'a:{{b}}%\u0000 {uuid4()} {'x' * 1000}"

    def test_a_key_has_one_owner(self, store: Store, key: str) -> None:
        """Who has it may have it again, and others are told who has it."""
        assert [None, None, "one"] == [store.acquire(key, owner, 60) for owner in ("one", "one", "two")]
        assert store.acquire(key + "!", "two", 60) is None

    def test_a_key_is_free_once_its_owner_releases_it(self, store: Store, key: str) -> None:
        """And only then."""
        store.acquire(key, "one", 60)
        store.release(key, "two")
        assert store.acquire(key, "two", 60) == "one"
        store.release(key, "one")
        store.release(key, "one")
        assert store.acquire(key, "two", 60) is None

    def test_a_key_is_free_once_its_time_is_over(self, store: Store, key: str) -> None:
        """Its owner cannot renew it then."""
        store.acquire(key, "one", 0.2)
        wait_until(lambda: store.acquire(key, "two", 60) is None, "It is not free.", 30)
        assert not store.renew(key, "one", 60, "one")

    def test_a_key_is_renewed_by_its_owner(self, store: Store, key: str) -> None:
        """For itself, or for its successor."""
        store.acquire(key, "one", 60)
        assert [True, False, False] == [store.renew(key, owner, 60, "next") for owner in ("one", "one", "two")]
        assert store.acquire(key, "one", 60) == "next"
        assert store.renew(key, "next", 0.2, "next")
        wait_until(lambda: store.acquire(key, "one", 60) is None, "It is not free.", 30)

    def test_of_many_one_acquires_a_key(self, store: Store, key: str) -> None:
        """Whatever happens at the same time."""
        for number in range(10):
            holders = _race(store, f"{key} {number}")
            [winner] = {holder for holder in holders if holder is not None}
            assert [winner] * 3 == sorted(filter(None, holders))


def _race(store: Store, key: str) -> list[str | None]:
    """Return what four owners are told that acquire a key at the same time."""
    begin = threading.Barrier(4)
    holders: list[str | None] = []

    def acquire(owner: str) -> None:
        begin.wait(30)
        holders.append(store.acquire(key, owner, 60))

    threads = [threading.Thread(target=acquire, args=(str(owner),)) for owner in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return holders
