"""The web application of the documentation, typed as it stands into an empty folder, passes its tests."""

from functools import partial

import pytest

from tests.documentation.pages import run_python, write_files


@pytest.fixture
def shop(tmp_path):
    """Write the files of both pages; return how Python is run there."""
    write_files(tmp_path, "web.md", "testing.md")
    return partial(run_python, tmp_path)


@pytest.mark.slow
@pytest.mark.once
def test_the_tests_of_the_documentation_pass(shop):
    """All three, in one process that starts and stops the application for each."""
    assert "3 passed" in shop("-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.slow
@pytest.mark.once
def test_what_an_endpoint_sends_a_worker_handles(shop):
    """From a def and an async def endpoint, in another process; also by the app that imports its handlers itself."""
    send = "from fastapi.testclient import TestClient\nfrom shop.web import web\n"
    send += "with TestClient(web) as client:\n    client.post('/orders/1')\n    client.post('/async-orders/2')\n"
    consume = "consume", "--until-empty"
    postbus = "-c", "from postbus.cli import main; main()"
    shop("-c", send)
    assert "Receipt for order 1\nReceipt for order 2\n" == shop(*postbus, *consume)
    shop("-c", send)
    assert "Receipt for order 1\nReceipt for order 2\n" == shop(*postbus, "--app", "shop.worker:bus", *consume)
