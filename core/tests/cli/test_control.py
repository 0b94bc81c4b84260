"""``postbus pause``, ``resume`` and ``stop-workers``, and what other commands say of a transport that is paused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from postbus.control import Control

if TYPE_CHECKING:
    from conftest import Shop


@pytest.fixture
def shop(shop: Shop, tmp_path: Path) -> Shop:
    """Let its orders and mails be where other processes see them, and the rest in memory."""
    module = shop.folder / "shop.py"
    text = module.read_text()
    for name in ("orders", "mails"):
        text = text.replace(f"in-memory://{shop.id}-{name}", f"filesystem://{tmp_path}/{name}")
    module.write_text(text)
    return shop


def control_of(shop: Shop) -> Control:
    return shop.app.control


def test_a_transport_is_paused_and_resumed(shop: Shop) -> None:
    """Each command says what it has done, and what there was before; again changes nothing."""
    assert "orders: paused\nmails: paused\n" == shop.run("pause", "orders", "mails").stdout
    pause = control_of(shop).paused("orders")
    assert pause is not None
    again = shop.run("pause", "orders")
    assert (0, f"orders: was paused already, {pause}\n") == (again.exit_code, again.stdout)
    assert pause == control_of(shop).paused("orders")

    resumed = shop.run("resume", "orders")
    assert (0, f"orders: resumed, was paused {pause}\n") == (resumed.exit_code, resumed.stdout)
    assert "orders: was not paused\n" == shop.run("resume", "orders").stdout
    assert control_of(shop).paused("orders") is None
    assert control_of(shop).paused("mails") is not None


def test_what_was_done_for_programs(shop: Shop) -> None:
    """The same as JSON, with who has paused it before, and when."""
    assert [{"transport": "orders", "result": "paused"}] == shop.json("pause", "orders")
    [again] = shop.json("pause", "orders")
    assert ("unchanged", {"by", "at"}) == (again["result"], set(again["before"]))
    [resumed] = shop.json("resume", "orders")
    assert ("resumed", again["before"]) == (resumed["result"], resumed["before"])
    assert [{"transport": "orders", "result": "unchanged"}] == shop.json("resume", "orders")


def test_a_worker_of_a_paused_transport_waits(shop: Shop) -> None:
    """It says so, by whom and what ends it, and handles nothing of it."""
    shop.dispatch(1)
    shop.run("pause", "orders")
    result = shop.run("consume", "orders", "--until-empty")

    assert "Pausing 'orders', which was paused for all workers by " in result.stderr
    assert "until: postbus resume orders." in result.stderr
    assert "there was nothing to do: 0 handled, 0 failed" in result.stderr
    shop.run("resume", "orders")
    assert "1 handled, 0 failed" in shop.run("consume", "orders", "--until-empty").stderr


def test_stats_tell_of_a_pause(shop: Shop) -> None:
    """By whom, and since when, below what waits."""
    shop.dispatch(1, 2)
    shop.run("pause", "orders")
    pause = control_of(shop).paused("orders")
    assert pause is not None

    lines = shop.run("stats").stdout.splitlines()
    assert ["orders", "2"] == lines[1].split()[:2]
    assert f"Paused: orders, {pause}." in lines
    assert {"orders": pause.by} == {name: one["by"] for name, one in shop.json("stats")["paused"].items()}


def test_check_tells_of_a_pause(shop: Shop) -> None:
    """It is a warning, and no problem: somebody wanted it."""
    shop.run("setup")
    shop.run("pause", "orders")
    result = shop.run("check", "--format", "json")
    found: dict[str, Any] = {one["what"]: one for one in shop.json("check")}

    assert 0 == result.exit_code, result.output
    assert "warning" == found["transport orders"]["status"]
    assert "can be reached; paused by " in found["transport orders"]["detail"]
    assert "ok" == found["transport mails"]["status"]


def test_a_control_store_that_is_away(shop: Shop, tmp_path: Path) -> None:
    """Nobody can be told then, and the exit code is 1; what else there is to say is said."""
    shop.append(f"""
    app = Postbus(
        transports={{"orders": "filesystem://{tmp_path}/orders", "notes": "filesystem://{tmp_path}/away/notes"}},
        control="notes",
    )
    """)
    shop.run("setup", "orders")
    paused, stats, check = shop.run("pause", "orders"), shop.run("stats", "orders"), shop.run("check")

    assert (1, 1, 1) == (paused.exit_code, stats.exit_code, check.exit_code)
    assert "Error: orders: Folder" in paused.stderr
    assert ["orders", "0"] == stats.stdout.splitlines()[1].split()[:2]
    assert "Error: orders: Folder" in stats.stderr
    assert "can be reached; whether it is paused cannot be told: Folder" in check.stdout


@pytest.mark.parametrize("command", ["pause", "resume"])
@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "Missing argument 'NAMES...'"),
        (["ordesr"], "There is no transport 'ordesr'. Did you mean 'orders'?"),
        (["orders", "now"], "Transport 'now' cannot be paused from afar, as 'now' is on a broker that keeps no notes"),
        (["orders", "failed"], "No worker would hear that 'failed' is paused, as what is noted there stays in the"),
    ],
)
def test_a_mistake_in_the_names(shop: Shop, command: str, names: list[str], problem: str) -> None:
    """It is one sentence and exit code 2, before anything is paused or resumed."""
    result = shop.run(command, *names)

    assert 2 == result.exit_code
    assert problem in result.stderr
    assert control_of(shop).paused("orders") is None


# stopping


def test_stop_workers_says_whom_it_reaches(shop: Shop) -> None:
    """Those on this machine, by a file; and on all machines those of a transport that keeps notes."""
    result = shop.run("stop-workers")

    assert 0 == result.exit_code
    assert result.stdout.endswith(
        f"all that share the folder {shop.folder}/state, and on all machines those of 'mails', 'orders'.\n"
    )
    assert control_of(shop).look("orders", []).stop is not None


def test_stop_workers_needs_no_folder_where_all_keep_notes(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, whose user has none, it is enough that all transports to consume keep notes."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("POSTBUS_STATE_DIR", str(tmp_path / "file"))
    result = shop.run("stop-workers")

    assert 0 == result.exit_code
    assert result.stdout.endswith("after the messages in hand: on all machines those of 'mails', 'orders'.\n")


def test_stop_workers_tells_those_that_it_can(shop: Shop, tmp_path: Path) -> None:
    """A broker that is away keeps nobody else from being told; the exit code is 1, and it is named."""
    shop.append(f"""
    app = Postbus(
        transports={{"orders": "filesystem://{tmp_path}/orders", "mails": "filesystem://{tmp_path}/away/mails"}},
        name="{shop.id}",
    )
    """)
    result = shop.run("stop-workers")

    assert 1 == result.exit_code
    assert "Error: mails: Folder" in result.stderr
    assert result.stdout.endswith("and on all machines those of 'orders'.\n")
    assert control_of(shop).look("orders", []).stop is not None
