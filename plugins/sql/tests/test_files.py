"""A file may be missing, go away, or be shared with a forked process; no message gets lost."""

import os
import signal
import traceback

import pytest
from sqlalchemy import create_engine

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Absence, Outgoing

MESSAGE = Outgoing(b"message", {})


def test_looking_for_what_is_missing_makes_no_file(connect, file):
    """`missing` says that there is no file, and leaves it so."""
    [sentence] = connect().missing()

    assert f"There is no file {file}. Run `postbus setup`." == sentence
    assert isinstance(sentence, Absence)
    assert not file.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path, make_transport):
    """A file whose folder is missing says so, when it is looked for and when it is used."""
    folder = tmp_path / "nowhere"
    transport = make_transport(f"sqlite:///{folder}/messages.db")
    told = f"There is no folder {folder}. Make it, or name another one in the DSN."

    assert [told] == transport.connection.missing()
    with pytest.raises(TransportError) as caught:
        transport.connection.publish([MESSAGE])
    assert f"Cannot use sqlite:///{folder}/messages.db. {told}" == str(caught.value)


def test_a_file_of_the_apps_is_where_it_was_when_the_process_goes_elsewhere(tmp_path, make_transport, monkeypatch):
    """An engine may name its file relative to the folder that the process begins in; that is no missing folder."""
    monkeypatch.chdir(tmp_path)
    engine = create_engine("sqlite:///messages.db")
    connection = make_transport("doctrine://mine", engine=engine).connection

    assert [f"There is no file {tmp_path}/messages.db. Run `postbus setup`."] == connection.missing()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    connection.publish([MESSAGE])
    [delivery] = connection.fetch(1, 0)
    assert MESSAGE.body == delivery.body
    assert (tmp_path / "messages.db").exists()
    engine.dispose()


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_in_which_nobody_may_write_is_named(there, tmp_path, make_transport):
    """SQLite has files beside the database, so the folder must be writable, also where the file is."""
    folder = tmp_path / "readable"
    folder.mkdir()
    transport = make_transport(f"sqlite:///{folder}/messages.db")
    if there:
        transport.connection.setup()
        (folder / "messages.db").chmod(0o666)
    folder.chmod(0o555)
    for parent in list(folder.parents)[:-2]:
        parent.chmod(0o755)
    told = (
        f"This process may not write into {folder}, where SQLite has files beside {folder}/messages.db. Permit it that."
    )

    def look():
        transport = make_transport(f"sqlite:///{folder}/messages.db")
        assert [told] == transport.connection.missing()
        with pytest.raises(TransportError) as caught:
            transport.connection.publish([MESSAGE])
        assert f"Cannot use sqlite:///{folder}/messages.db. {told}" == str(caught.value)

    assert 0 == as_nobody(look)


def as_nobody(work):
    """Do something in a child that is not root, which may write anywhere; return its exit code."""
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_missing_table_is_named(connect, file):
    """A file without the table needs a setup."""
    file.touch()

    [sentence] = connect().missing()

    assert "no such table: messenger_messages. Run `postbus setup`." in sentence


def test_setup_adds_the_index_to_symfonys_table(symfony_table, connect):
    """A table that Symfony made works as it is, and is faster after a setup."""
    connection = connect()
    connection.publish([MESSAGE])
    [sentence] = connection.missing()
    assert "Table messenger_messages has no index messenger_messages_claim" in sentence

    connection.setup()

    assert [] == connection.missing()
    assert 1 == len(connection.fetch(10, 0))


def test_setup_makes_readers_and_writers_independent(connect, sql):
    """A file of the plugin's own uses write-ahead logging from its setup on."""
    connect().setup()

    assert [("wal",)] == sql("PRAGMA journal_mode")


def test_a_table_is_made_when_it_is_first_needed(connect):
    """Without any setup, each operation finds the table, or makes it."""
    assert [] == connect(table_name="a").fetch(1, 0)
    assert ["1"] == connect(table_name="b").publish([MESSAGE])
    assert 0 == connect(table_name="c").count().waiting
    assert [] == connect(table_name="d").browse(1)
    assert 0 == connect(table_name="e").purge()


def test_no_table_is_made_that_is_not_wanted(connect, sql):
    """With ``auto_setup=false`` the error says what to run, and nothing is created."""
    with pytest.raises(TransportError, match="no such table: messenger_messages. Run `postbus setup`"):
        connect(auto_setup=False).publish([MESSAGE])

    assert [] == sql("SELECT name FROM sqlite_master")


def test_a_missing_folder_is_named(connect, tmp_path):
    """The error says which file could not be opened, and that its folder is missing."""
    with pytest.raises(ConnectionLost, match=r"nowhere/messages.db. There is no folder .*nowhere. Make it"):
        connect(f"sqlite:///{tmp_path}/nowhere/messages.db").publish([MESSAGE])


def test_a_deleted_file_is_noticed(connect, file):
    """What would be written into a file that was deleted is refused, for nobody would ever read it."""
    connection = connect()
    connection.publish([MESSAGE])
    file.unlink()

    with pytest.raises(ConnectionLost, match="deleted or replaced"):
        connection.publish([MESSAGE])


def test_a_replaced_file_is_noticed(connect, file, tmp_path):
    """So is a file that another one was moved onto, as when a backup is restored."""
    connection, other = connect(), connect(f"sqlite:///{tmp_path}/other.db")
    connection.publish([MESSAGE])
    other.setup()
    (tmp_path / "other.db").replace(file)

    with pytest.raises(ConnectionLost, match="deleted or replaced"):
        connection.publish([MESSAGE])


@pytest.mark.parametrize("shared", [False, True])
def test_a_transport_goes_on_with_the_new_file(make_transport, file, shared):
    """Where the file was deleted, the transport makes a new one, and stores the message there."""
    engine = create_engine(f"sqlite:///{file}")
    transport = make_transport("doctrine://mine", engine=engine) if shared else make_transport()
    transport.connection.publish([MESSAGE])
    for path in file.parent.iterdir():
        path.unlink()

    transport.call(lambda connection: connection.publish([MESSAGE]))

    assert 1 == len(make_transport().connection.fetch(10, 0))
    engine.dispose()


def test_a_folder_in_place_of_a_file_is_named(connect, tmp_path):
    """The folder is there, and so is room on the disk."""
    with pytest.raises(ConnectionLost) as caught:
        connect(f"sqlite:///{tmp_path}").publish([MESSAGE])
    assert f"Cannot use sqlite:///{tmp_path}. {tmp_path} is a folder. Name a file in the DSN." == str(caught.value)


def test_a_file_that_is_no_database_is_an_error(connect, file):
    """Trying again would not help, so this is no lost connection."""
    file.write_text("This is a letter, not a database. " * 100)

    with pytest.raises(TransportError, match=r"file is not a database\. Name another one in the DSN\.$") as caught:
        connect().publish([MESSAGE])

    assert not isinstance(caught.value, ConnectionLost)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
def test_a_forked_process_loses_nothing_when_its_parent_closes(make_transport, connect):
    """Parent and child have nothing open in common, or the parent's close would delete the child's log.

    So it is with SQLite by itself: what the child commits then is gone when the child ends.
    """
    transport = make_transport()
    transport.connection.publish([MESSAGE])
    [to_child, from_parent], [to_parent, from_child] = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        transport.connection.publish([MESSAGE])
        os.write(from_child, b".")
        os.read(to_child, 1)
        transport.connection.publish([MESSAGE])
        os.kill(os.getpid(), signal.SIGKILL)
    os.read(to_parent, 1)
    transport.close()
    os.write(from_parent, b".")
    os.waitpid(child, 0)

    assert 3 == len(connect().fetch(10, 0))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
def test_a_fork_leaves_the_parent_working(make_transport, in_background):
    """A fetch that waits, and all that comes afterwards, goes on in the parent."""
    transport = make_transport()
    transport.connection.setup()
    waiting = in_background(lambda: transport.connection.fetch(1, 100))

    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

    transport.connection.publish([MESSAGE])
    assert [MESSAGE.body] == [delivery.body for delivery in waiting.result(30)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
def test_a_forked_process_has_a_database_in_memory_of_its_own(make_transport):
    """What lies in the parent's memory is not delivered in the child too."""
    transport = make_transport("sqlite://")
    transport.connection.publish([MESSAGE])

    child = os.fork()
    if child == 0:
        os._exit(transport.connection.count().waiting)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert 1 == transport.connection.count().waiting
