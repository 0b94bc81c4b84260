"""What the page about web applications shows for Flask and Django sends, and a worker handles it."""

import pytest

from tests.documentation.pages import run_python, write_files

SETTINGS = """\
SECRET_KEY = "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}}
"""

FLASK = """\
from shop.flask_web import web
assert 202 == web.test_client().post("/orders/13").status_code
"""

DJANGO = """\
import django
django.setup()
from django.db import connection, transaction
from django.test import RequestFactory
from shop.bus import bus
from shop.views import place_order

request = RequestFactory().post("/")
with transaction.atomic():
    assert 202 == place_order(request, 13).status_code
    assert 0 == bus.transport("orders").connection.count().waiting
assert 1 == bus.transport("orders").connection.count().waiting
try:
    with transaction.atomic():
        place_order(request, 14)
        raise LookupError
except LookupError:
    pass
"""


@pytest.fixture
def run(tmp_path):
    """Write each file of the page; return how a program is run there."""
    write_files(tmp_path, "web.md")
    (tmp_path / "shop/settings.py").write_text(SETTINGS, encoding="utf-8")

    def run(program, *arguments):
        return run_python(tmp_path, "-c", program, *arguments, DJANGO_SETTINGS_MODULE="shop.settings")

    return run


def consume(run, app):
    return run("from postbus.cli import main; main()", "--app", app, "consume", "--until-empty")


def test_flask(run):
    """Its endpoint sends."""
    run(FLASK)
    assert "Receipt for order 13\n" == consume(run, "shop.bus:bus")


def test_django(run, tmp_path):
    """Its view sends when its transaction is committed, and only then; the worker has Django set up."""
    with (tmp_path / "postbus.toml").open("a", encoding="utf-8") as file:
        file.write('\n[buses.default]\nmiddleware = ["shop.connections:with_fresh_connections"]\n')
    run(DJANGO)
    assert "Receipt for order 13\n" == consume(run, "shop.django_worker:bus")
