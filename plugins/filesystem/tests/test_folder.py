"""What is particular to a folder of files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Outgoing
from postbus_filesystem.connection import FilesConnection
from postbus_filesystem.options import FilesOptions

MESSAGE = Outgoing(b"message", {})


def connect(path: Path, *, auto_setup: bool = True) -> FilesConnection:
    return FilesConnection(path, FilesOptions(auto_setup=auto_setup, fsync=False))


def bodies(connection: FilesConnection) -> list[bytes]:
    return [delivery.body for delivery in connection.fetch(10, 0)]


def test_what_was_being_written_was_never_sent(tmp_path: Path) -> None:
    """A process that dies while it writes leaves half a message, which nobody gets."""
    connection = connect(tmp_path / "queue")
    connection.setup()
    (tmp_path / "queue/writing/half").write_bytes(b"half a mess")

    assert [] == bodies(connection)
    assert 0 == connection.count().waiting


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "13-a.0", f"{0:020}-a", f"{0:020}-a.0.tmp"])
def test_a_file_of_another_name_is_left_alone(tmp_path: Path, name: str) -> None:
    """It is no message, and stays where it is, whatever is done to those."""
    connection = connect(tmp_path / "queue")
    connection.publish([MESSAGE])
    stranger = tmp_path / "queue/waiting" / name
    stranger.write_bytes(b"mine")

    assert [b"message"] == bodies(connection)
    assert 1 == connection.purge()
    assert stranger.exists()


def test_what_cannot_be_read_costs_nobody_anything(tmp_path: Path) -> None:
    """Its neighbours come, and it stays: nothing can bury what nobody can read."""
    connection = connect(tmp_path / "queue")
    connection.setup()
    (tmp_path / f"queue/waiting/{0:020}-unreadable.0").mkdir()
    connection.publish([MESSAGE])

    assert [b"message"] == bodies(connection)
    assert connection.find(f"{0:020}-unreadable") is None
    assert 2 == connection.count().in_flight


def test_what_was_not_set_up_is_said(tmp_path: Path) -> None:
    """Whoever has switched ``auto_setup`` off is told what to do, by an error and by `missing`."""
    connection = connect(tmp_path / "queue", auto_setup=False)

    with pytest.raises(TransportError, match="Run `postbus setup`.") as caught:
        connection.publish([MESSAGE])

    assert not isinstance(caught.value, ConnectionLost), "A new connection would not find it either."
    assert f"There is no folder {tmp_path / 'queue'}. Run `postbus setup`." in connection.missing()


def test_a_disk_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Messages would be written to another one, where nobody finds them once it is back."""
    with pytest.raises(ConnectionLost):
        connect(tmp_path / "disk/queue").publish([MESSAGE])

    assert not (tmp_path / "disk").exists()


def test_what_others_took_is_not_waited_for(tmp_path: Path) -> None:
    """Who has listed the folder, and finds that others have what he saw, looks again at once."""
    one, other = connect(tmp_path / "queue"), connect(tmp_path / "queue")
    one.publish([Outgoing(b"%d" % number, {}) for number in range(4)])

    assert [b"0"] == [delivery.body for delivery in one.fetch(1, 0)]
    assert [b"1", b"2", b"3"] == bodies(other)
    other.publish([MESSAGE])

    assert [b"message"] == bodies(one)


def test_what_is_due_earlier_comes_earlier(tmp_path: Path) -> None:
    """Also to a connection that has listed the folder before it was sent."""
    one, other = connect(tmp_path / "queue"), connect(tmp_path / "queue")
    one.publish([Outgoing(b"now", {}), Outgoing(b"now too", {}), Outgoing(b"later", {}, 0.2)])
    one.fetch(1, 0)
    other.publish([Outgoing(b"sooner", {}, 0.1)])
    time.sleep(0.2)

    assert [b"now too"] == bodies(one)
    assert [b"sooner", b"later"] == bodies(one)


def test_the_folder_holds_what_the_process_returned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is on the disk before it gets its name, and so is its name before `publish` returns."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noting_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).parent.name}")
        fsync(descriptor)

    def noting_rename(path: Path, target: Path) -> Path:
        done.append(f"rename to {target.parent.name}")
        return rename(path, target)

    connection = FilesConnection(tmp_path / "queue", FilesOptions(auto_setup=False))
    connection.setup()
    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    connection.publish([MESSAGE])

    assert ["sync writing", "rename to waiting", "sync queue"] == done
