"""Every variant of beanstalkd answers at its DSN, and can be broken as its class says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.brokers.beanstalkd import Beanstalkd, BeanstalkdInMemory, OwnBeanstalkd

PATIENCE = 10

# The tests are about processes, and those cost more than a second.
pytestmark = [pytest.mark.slow, pytest.mark.once]


def test_a_server_with_a_log(beanstalkd: Beanstalkd) -> None:
    """Everybody may use it."""
    with beanstalkd.client() as client:
        assert client.stats()["binlog-current-index"] > 0


def test_a_server_without_a_log(beanstalkd_in_memory: BeanstalkdInMemory) -> None:
    """So may they this one."""
    with beanstalkd_in_memory.client() as client:
        assert 0 == client.stats()["binlog-current-index"]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_data_outlives_the_server(own_beanstalkd: OwnBeanstalkd, how: str) -> None:
    """Stopped or killed, and started again on the same port, it has what it acknowledged."""
    with own_beanstalkd.client() as client:
        id = client.put(b"job")
        getattr(own_beanstalkd, how)()
        with pytest.raises(ConnectionError):
            client.stats()
    own_beanstalkd.start()
    with own_beanstalkd.client() as client:
        assert b"job" == client.peek(id).body
        client.delete(id)


def test_a_paused_server_answers_later(own_beanstalkd: OwnBeanstalkd) -> None:
    """It keeps its connections and is silent; when it goes on, it answers."""
    with ThreadPoolExecutor() as threads, own_beanstalkd.client() as client:
        own_beanstalkd.pause()
        answer = threads.submit(client.stats)
        with pytest.raises(TimeoutError):
            answer.result(0.2)
        own_beanstalkd.resume()
        assert answer.result(PATIENCE)
