"""What has to be seen on a real Kafka before anybody relies on it, and where it is: 25 cases, each with its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documentation.test_coming_from import functions_of

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[3]

CASES: dict[str, list[str]] = {
    "1. A DSN: several hosts, IPv6, passwords that are encoded and not shown, options that are unknown": [
        "core/tests/test_dsn.py::test_a_dsn_is_read_as_what_it_means",
        "core/src/postbus/testing/rules/dsns.py::test_an_unknown_option_is_refused_with_the_nearest_name",
        "test_topics.py::test_logging_in",
    ],
    "2. In whatever order things are settled, what is committed is the least that is not": [
        "test_assignment.py::test_nothing_is_committed_that_is_not_settled",
        "test_metadata.py::test_what_is_written_is_read",
        "test_metadata.py::test_what_does_not_fit_is_left_out_from_the_end",
    ],
    "3. A message goes there and comes back as it was, empty, large, without a key; one that is too large is refused": [
        "test_publishing.py::test_a_record_has_body_headers_and_key",
        "test_publishing.py::test_what_is_too_large_is_refused_alone",
        "test_consuming.py::test_a_message_tells_where_it_lies",
    ],
    "4. What was settled out of order stays settled when a worker is killed": [
        "test_deaths.py::test_what_was_settled_in_any_order_stays_settled",
    ],
    "5. What was handled and not committed comes again, in its order": [
        "test_deaths.py::test_what_was_handled_and_not_committed_comes_again",
    ],
    "6. Two workers of six partitions: one joins, and leaves in order": [
        "test_rebalancing.py::test_who_joins_and_leaves_costs_nothing",
        "test_workers.py::test_two_of_three_are_replaced",
    ],
    "7. One of two workers is killed": [
        "test_rebalancing.py::test_another_worker_takes_over_from_one_that_was_killed",
        "test_workers.py::test_one_is_killed_and_one_joins",
    ],
    "8. A partition goes to another worker while a handler runs, which ends in time": [
        "test_rebalancing.py::test_what_is_settled_in_time_does_not_come_again",
    ],
    "9. The same with one that does not: its ack is told to be lost": [
        "test_rebalancing.py::test_what_is_not_settled_in_time_is_anothers",
    ],
    "10. A handler that takes longer than a session costs no membership": [
        "test_rebalancing.py::test_long_work_costs_no_membership",
    ],
    "11. A handler that hangs: there is no lease, and the worker's time limit ends it": [
        "tests/e2e/test_time_limits.py::test_a_process_is_replaced_whose_handler_does_not_end",
    ],
    "12. A worker stands still for longer than its session": [
        "test_deaths.py::test_who_stood_still_for_too_long_settles_nothing_that_is_anothers",
        "test_deaths.py::test_who_was_cut_off_for_too_long_hands_out_nothing",
    ],
    "13. What cannot be decoded is buried as it came, and its neighbours are handled": [
        "test_fuzz.py::test_what_others_write_hurts_nobody",
        "test_interop.py::test_a_tombstone_is_buried",
    ],
    "14. A message that workers die of is counted, and those beside it are delivered": [
        "test_deaths.py::test_a_message_that_workers_die_of_is_counted_apart",
    ],
    "15. Delays of many lengths: none is early, none holds up another": [
        "test_delays.py::test_never_early_and_all_of_them",
        "test_delays.py::test_what_was_moved_behind_something_that_waits",
    ],
    "16. Two groups: what one retries the other does not see, and what is delayed comes to each once": [
        "test_delays.py::test_what_is_retried_waits_for_its_group",
        "test_delays.py::test_what_is_delayed_comes_once_to_each_group",
    ],
    "17. The forwarder is killed between writing and committing; with transactions nothing comes twice": [
        "test_delays.py::test_a_forwarder_that_is_killed_before_it_commits",
        "test_delays.py::test_a_forwarder_that_is_killed_beside_a_commit",
    ],
    "18. A broker is killed and comes back, with messages under way": [
        "core/src/postbus/testing/rules/restarts.py::test_what_was_published_survives_a_crash",
        "core/src/postbus/testing/rules/restarts.py::test_a_transport_goes_on_after_a_restart",
        "test_cluster.py::test_one_of_three_is_killed_under_load",
        "test_delays.py::test_a_broker_that_restarts",
    ],
    "19. A broker is away": [
        "core/src/postbus/testing/rules/restarts.py::test_fetching_without_a_broker_is_a_lost_connection",
        "test_publishing.py::test_a_broker_that_is_away_is_lost",
    ],
    "20. The failure transport: list, show, remove and take by id, after compaction too": [
        "test_failed_topic.py::test_listing_goes_on_behind_any_id",
        "test_failed_topic.py::test_removing_is_a_tombstone_and_happens_once",
        "test_failed_topic.py::test_compaction_loses_nothing",
    ],
    "21. Counting: without a commit, with gaps, with much, and with what the broker has deleted": [
        "test_consuming.py::test_what_was_settled_out_of_order_counts_no_more",
        "test_consuming.py::test_a_backlog_of_a_million_is_counted",
        "test_consuming.py::test_what_was_deleted_counts_no_more",
        "test_consuming.py::test_what_the_broker_has_deleted_is_told",
    ],
    "22. Transactions: all or nothing, and one whose name was taken leaves its successor alone": [
        "test_transactions.py::test_a_transaction_that_fails_stores_nothing",
        "test_transactions.py::test_who_was_replaced_leaves_the_successor_alone",
        "test_transactions.py::test_who_begins_ends_what_was_left_undone",
    ],
    "23. With many handlers at once, and failures, each key keeps its order": [
        "test_app.py::test_each_key_keeps_its_order_whatever_fails",
    ],
    "24. A topic for each priority; what is not urgent has its share; what is full stays so when partitions come": [
        "test_priorities.py::test_what_is_urgent_overtakes_a_backlog",
        "test_priorities.py::test_what_is_not_urgent_has_its_turns",
        "test_rebalancing.py::test_who_has_enough_reads_no_more_of_what_comes_to_it",
    ],
    "25. Set up by several at once, no topic of a typing error, logging in, certificates, and a bounded memory": [
        "test_topics.py::test_setting_up_is_repeatable_and_changes_nothing",
        "test_publishing.py::test_a_topic_is_made_only_if_it_may_be",
        "test_topics.py::test_logging_in",
        "test_topics.py::test_another_name_in_the_certificate",
        "test_consuming.py::test_large_messages_are_bounded_by_their_bytes",
    ],
}
"""The tests are in this folder unless a path says where; those of `TransportContract` run in `test_contract.py`."""


@pytest.mark.parametrize("tests", CASES.values(), ids=[case.partition(".")[0] for case in CASES])
def test_each_case_has_its_tests(tests: list[str]) -> None:
    """They are where the list says."""
    for test in tests:
        path, _, name = test.partition("::")
        assert name in functions_of(ROOT / path if "/" in path else Path(__file__).parent / path), test
