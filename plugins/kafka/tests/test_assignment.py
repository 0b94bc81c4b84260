"""One partition, whatever is settled and given back in whatever order: nothing unsettled is ever committed as done."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from postbus_kafka.assigning import EvenAssignor
from postbus_kafka.assignment import IN_HAND, WAITING, Assignment, Entry
from postbus_kafka.metadata import decode

STEPS = st.lists(
    st.sampled_from(["read", "hand out", "settle", "give back", "commit", "take over", "leave"]), max_size=60
)


class Group:
    """A partition, who has it now, and what each of its records has been through."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.end = self.random.choice([0, 7])
        self.settled: set[int] = set()
        self.committed: tuple[int, str] | None = None
        self.known: set[int] = set()
        """What the broker was told is settled."""
        self.assignment = Assignment("p")
        self.assignment.restore(self.end, (), self.end)
        self.entries: list[Entry] = []
        self.offsets: list[int] = []

    def read(self) -> None:
        """Read some records; offsets may be left out."""
        for _ in range(self.random.randint(1, 5)):
            offset = self.end + self.random.choice([0, 0, 0, 3])
            self.end = offset + 1
            self.offsets.append(offset)
            self._enter(offset)

    def _enter(self, offset: int) -> None:
        state = self.assignment.state_of(offset)
        record: Any = SimpleNamespace(offset=offset)
        entry = Entry(self.assignment, record, None, 1, state.deaths)
        self.assignment.add(entry)
        if state.is_done:
            assert offset in self.known, "What nobody has settled, or committed, is taken for done."
            entry.settle()
        else:
            assert offset not in self.known or self.is_cut, "What was committed as settled comes again."
            self.entries.append(entry)

    is_cut = False

    def some(self, state: int) -> list[Entry]:
        """Return some records in this state."""
        found = [entry for entry in self.entries if entry.state == state]
        return self.random.sample(found, self.random.randint(0, len(found)))

    def commit(self, *, is_last: bool = False) -> None:
        """Commit, and see that what is committed is settled."""
        commit = self.assignment.to_commit(is_last=is_last)
        if commit is None:
            return
        before = self.committed[0] if self.committed else 0
        assert commit.offset >= before, "The committed offset goes back."
        self.committed = (commit.offset, commit.text)
        self.assignment.confirm(commit)
        done, at = {offset for offset in self.offsets if offset < commit.offset}, commit.offset
        for length, state in decode(commit.text):
            done |= {offset for offset in self.offsets if at <= offset < at + length and state.is_done}
            at += length
        assert done <= self.settled | self.known, "Something is committed that is not settled."
        self.known = done

    def take_over(self) -> None:
        """Let another one begin where the last commit has left off."""
        self.assignment.is_ours = False
        self.assignment, self.entries = Assignment("p"), []
        offset, text = self.committed or (None, "")
        self.settled = set(self.known)
        start = offset if offset is not None else (self.offsets[0] if self.offsets else self.end)
        self.assignment.restore(start, decode(text), self.end)
        for one in [offset for offset in self.offsets if offset >= start]:
            self._enter(one)


@given(STEPS, st.integers(0, 1000))
def test_nothing_is_committed_that_is_not_settled(steps: list[str], seed: int) -> None:
    """And what was committed as settled comes to nobody again, whoever takes over."""
    group = Group(seed)
    for step in steps:
        if step == "read":
            group.read()
        elif step == "hand out":
            for entry in group.some(WAITING):
                group.assignment.hand_out(entry)
        elif step == "settle":
            for entry in group.some(IN_HAND):
                group.settled.add(entry.offset)
                group.assignment.settle(entry)
        elif step == "give back":
            for entry in group.some(IN_HAND):
                group.assignment.take_back(entry)
        elif step == "commit":
            group.commit()
        elif step == "take over":
            group.take_over()
        else:
            group.commit(is_last=True)
            group.take_over()
    for entry in [entry for entry in group.entries if entry.state == WAITING]:
        group.assignment.hand_out(entry)
    for entry in [entry for entry in group.entries if entry.state == IN_HAND]:
        group.settled.add(entry.offset)
        group.assignment.settle(entry)
    group.commit()
    if group.committed is not None:
        assert group.committed[0] >= (group.offsets[-1] + 1 if group.offsets else 0)
        assert not any(state.is_done for _, state in decode(group.committed[1]))


def member(name: str, **owned: list[int]) -> Any:
    """Return a member of the group as its leader sees it."""
    owns = [SimpleNamespace(topic=topic, partitions=partitions) for topic, partitions in owned.items()]
    metadata = SimpleNamespace(topics=["a", "b"], owned_partitions=owns, generation_id=-1)
    return SimpleNamespace(member_id=name, group_instance_id=None, metadata=metadata)


def test_each_topic_is_divided_by_itself() -> None:
    """No worker gets all of a topic, and another one none of it."""
    cluster: Any = SimpleNamespace(
        topics=lambda: {"a", "b"}, partitions_for_topic=lambda topic: {0, 1, 2, 3}, available_partitions_for_topic=set
    )

    found = EvenAssignor().assign(cluster, [member("one", a=[0, 1, 2, 3], b=[0, 1, 2, 3]), member("two")])
    kept = {topic: len(partitions) for topic, partitions in found["one"].assigned_partitions}

    assert {"a": 2, "b": 2} == kept
    assert [] == found["two"].assigned_partitions, "What moves is given up first."

    freed = {topic: list(partitions) for topic, partitions in found["one"].assigned_partitions}
    found = EvenAssignor().assign(cluster, [member("one", **freed), member("two")])
    assert {"a": 2, "b": 2} == {topic: len(partitions) for topic, partitions in found["two"].assigned_partitions}
