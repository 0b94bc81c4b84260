"""The contract is itself tested: a transport that breaks one promise fails the rule about it, and no other."""

import re
from collections import Counter

import pytest

from postbus.testing import TransportContract
from postbus.testing.promises import promise_of
from tests.contract.healthy import AWKWARD, HEALTHY
from tests.contract.mutants import MUTANTS
from tests.contract.proof import failed, groups, rules

# The first of these tests waits for all transports before its own to be judged.
pytestmark = [pytest.mark.slow, pytest.mark.once, pytest.mark.timeout(900)]


class TestProof:
    """In one class, so that one process judges the transports, once."""

    @pytest.mark.parametrize("transport", [connection.__name__ for connection in HEALTHY])
    def test_a_transport_that_keeps_the_contract_breaks_no_rule(self, transport, verdicts):
        """Every rule passes on a healthy transport, or is skipped for what it does not promise."""
        verdict = verdicts[transport].result()

        assert set(rules()) == set(verdict)
        assert set() == failed(verdict)

    @pytest.mark.parametrize("transport", [connection.__name__ for connection in AWKWARD])
    def test_what_is_awkward_is_not_taken_for_a_broken_promise(self, transport, verdicts):
        """A rule that hears too late of what it looks for looks once more; a broker may hand a message on twice."""
        assert {"passed"} == set(verdicts[transport].result().values())

    @pytest.mark.parametrize("transport", MUTANTS)
    def test_a_broken_promise_fails_its_rule_and_no_other(self, transport, verdicts):
        """The rule that a mutant is for fails on it; so do, of its group, only those that cannot hold without it."""
        mutant = MUTANTS[transport]

        assert {mutant.rule, *mutant.also} == failed(verdicts[transport].result()) - mutant.perhaps

    def test_no_rule_is_skipped_everywhere(self, verdicts):
        """Each rule passes on one healthy transport at least, so that its mutant is known to be what it fails for."""
        healthy = [verdicts[connection.__name__].result() for connection in HEALTHY]

        assert [] == [rule for rule in rules() if "passed" not in {verdict[rule] for verdict in healthy}]


def test_every_rule_has_a_mutant():
    """No rule is there that nothing is known to fail, and no mutant is for a rule that is gone."""
    assert set(rules()) == {mutant.rule for mutant in MUTANTS.values()}
    assert {rule for mutant in MUTANTS.values() for rule in mutant.also | mutant.perhaps} <= set(rules())


def test_groups_do_not_get_in_each_others_way():
    """No two groups of rules define the same name, since all are bases of one class."""
    names = Counter(name for group in groups() for name in vars(group) if not name.startswith("__"))

    assert [] == [name for name, number in names.items() if number > 1]


def test_every_rule_says_what_is_promised():
    """The docstring of a rule is the promise."""
    assert [] == [rule for rule in rules() if not getattr(TransportContract, rule).__doc__]


def test_every_rule_has_an_id_of_its_own():
    """It is of the group and a number, and says since when it is there, so that a new rule can be told from others."""
    promised = {rule: promise_of(getattr(TransportContract, rule)) for rule in rules()}
    ids = Counter(promise.id for promise in promised.values() if promise is not None)

    assert [] == [rule for rule, promise in promised.items() if promise is None]
    assert [] == [id for id, number in ids.items() if number > 1]
    assert all(re.fullmatch(r"[a-z]+-[1-9][0-9]*", id) for id in ids)
