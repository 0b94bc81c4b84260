"""Mutants for the rules in `postbus.testing.rules.notes`."""

from __future__ import annotations

from collections.abc import Sequence

from postbus.transport import Outgoing
from postbus_in_memory.queue import Queue
from tests.contract.healthy import Plain, Served, Shared
from tests.contract.mutants.entry import Locking, breaks
from tests.contract.server import Server


@breaks("a_note_is_read_by_others")
class KeepsNotesToItself(Plain):
    """Keeps notes where no other connection looks."""

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.notes: dict[str, str | None] = {}

    def write_note(self, name: str, text: str | None) -> None:
        self.notes[name] = text

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        return [self.notes.get(name) for name in names]


@breaks("a_note_takes_the_place_of_the_one_before")
class KeepsTheFirstNote(Plain):
    """Takes no second text under a name."""

    def write_note(self, name: str, text: str | None) -> None:
        if text is None or name not in self.queue.notes:
            super().write_note(name, text)


@breaks("notes_are_told_apart_by_their_names")
class FoldsNames(Plain):
    """Looks for names as some databases do, in which letters are the same in either case."""

    def write_note(self, name: str, text: str | None) -> None:
        super().write_note(name.lower(), text)

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        return super().read_notes([name.lower() for name in names])


@breaks("a_note_is_no_message")
class DeliversNotes(Plain):
    """Puts a note where the messages are, too."""

    def write_note(self, name: str, text: str | None) -> None:
        super().write_note(name, text)
        if text is not None:
            self.publish([Outgoing(text.encode(), {})])


@breaks("notes_are_read_and_written_while_another_thread_waits")
class LocksNotes(Locking):
    """Reads no notes while a fetch waits."""

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        with self.lock:
            return super().read_notes(names)


class Oblivious(Server):
    """Forgets its notes when it goes away."""

    def go_away(self) -> None:
        super().go_away()
        self.notes.clear()


@breaks("a_note_survives_a_crash")
class KeepsNotesInMemory(Served):
    """Calls itself durable, and has no notes after a crash."""

    queue_type = Oblivious


@breaks("to_read_notes_sets_nothing_up")
class SetsUpToLook(Shared):
    """Makes its file to look into it."""

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        self.setup()
        return super().read_notes(names)
