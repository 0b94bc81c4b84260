"""Routing: which transports a message is sent to, and which of several rules decides."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pytest

from postbus import ConfigurationError, Envelope, stamps
from postbus.routing import Route, Router
from postbus.testing import RecordingTransport


@dataclass(frozen=True)
class Base:
    id: int = 0


@dataclass(frozen=True)
class Middle(Base):
    pass


@dataclass(frozen=True)
class Leaf(Middle):
    class Nested:
        """Has its outer class in its qualified name."""


@dataclass(frozen=True)
class Other:
    name: str = ""


@dataclass(frozen=True)
class Brother:
    name: str = ""


class Virtual(abc.ABC):  # noqa: B024
    """Other is one of these by registration only."""


Virtual.register(Other)


@runtime_checkable
class Named(Protocol):
    """What has a data member called name."""

    name: str


@runtime_checkable
class Billable(Protocol):
    def bill(self) -> None: ...


class Unchecked(Protocol):
    """A protocol that isinstance refuses."""

    id: int


@dataclass(frozen=True)
class Invoice(Base):
    def bill(self) -> None: ...


NAMES = ["a", "b", "c", "d"]
HERE = __name__


def make_router(
    routes: Mapping[Route, Sequence[str]], own_transports: Mapping[type, Sequence[str]] | None = None
) -> Router:
    return Router({name: RecordingTransport(name) for name in NAMES}, routes, own_transports)


def names(router: Router, message: Any, *more: stamps.Stamp) -> list[str]:
    return list(router.senders_for(Envelope.wrap(message, *more)))


def test_without_a_route_there_are_no_senders() -> None:
    """A message that nothing is said about is handled here."""
    assert [] == names(make_router({}), Leaf())
    assert [] == names(make_router({Other: ["a"], f"{HERE}.Other": ["b"], "elsewhere.*": ["c"]}), Leaf())


def test_the_senders_are_those_of_the_names() -> None:
    """Each name stands for the transport that has it."""
    a = RecordingTransport("a")
    assert {"a": a} == dict(Router({"a": a}, {Leaf: ["a"]}).senders_for(Envelope.wrap(Leaf())))


@pytest.mark.parametrize(
    "route",
    [Leaf, Middle, Base, object, f"{HERE}.Leaf", f"{HERE}.Middle", f"{HERE}.Base", "builtins.object", f"{HERE}.*", "*"],
    ids=str,
)
def test_what_a_route_may_be(route: Route) -> None:
    """The class, one of its bases, their dotted names, the module's wildcard, and the wildcard for everything."""
    assert ["a"] == names(make_router({route: ["a"]}), Leaf())


@pytest.mark.parametrize(
    "route",
    ["Leaf", f"{HERE}.Lea", f"{HERE}.Leaf.*", f"{HERE}.leaf", f"{HERE}*", f"{HERE}", ".*", "", "**", f"{HERE}.Le*"],
)
def test_what_does_not_fit(route: str) -> None:
    """A dotted name is compared whole; a wildcard stands for whole parts of a name only."""
    assert [] == names(make_router({route: ["a"]}), Leaf())


def test_a_base_is_no_route_for_its_parent() -> None:
    """A route for a derived class says nothing about the class that it is derived from."""
    assert [] == names(make_router({Leaf: ["a"], f"{HERE}.Leaf": ["b"]}), Base())


def test_protocols_and_virtual_bases_are_routes() -> None:
    """A message that satisfies a protocol, by methods or data, or was registered with an ABC, is routed by it."""
    router = make_router({Named: ["a"], Virtual: ["b"], Billable: ["c"]})
    assert ["a", "b"] == names(router, Other())
    assert ["c"] == names(router, Invoice())
    assert [] == names(router, Leaf())


def test_all_routes_by_class_count_the_nearest_first() -> None:
    """The routes for the class, its bases and protocols add up: class, bases nearest first, protocols."""
    router = make_router({Billable: ["d"], Base: ["c"], object: ["b"], Invoice: ["a"]})
    assert ["a", "c", "b", "d"] == names(router, Invoice())


def test_routes_of_equal_distance_keep_the_order_of_the_configuration() -> None:
    """A class and its dotted name are the same route; what was said first comes first."""
    assert ["b", "a"] == names(make_router({f"{HERE}.Leaf": ["b"], Leaf: ["a"]}), Leaf())
    assert ["a", "b"] == names(make_router({Leaf: ["a"], f"{HERE}.Leaf": ["b"]}), Leaf())
    assert ["b", "a"] == names(make_router({Virtual: ["b"], Named: ["a"]}), Other())


def test_several_transports_keep_their_order_and_none_twice() -> None:
    """A transport that several routes name gets the message once, where it was named first."""
    assert ["c", "a", "b"] == names(make_router({Leaf: ["c", "a", "c"], Base: ["a", "b"], object: ["c"]}), Leaf())


def test_the_longest_wildcard_decides() -> None:
    """Of several wildcards that fit only the longest counts, wherever it stands."""
    package, _, _ = HERE.rpartition(".")
    routes: dict[Route, Sequence[str]] = {
        "*": ["a"],
        f"{HERE}.*": ["b"],
        **({f"{package}.*": ["c"]} if package else {}),
    }
    assert ["b"] == names(make_router(routes), Leaf())
    assert ["b"] == names(make_router(dict(reversed(routes.items()))), Leaf())


def test_a_wildcard_is_for_the_class_itself() -> None:
    """A message is not caught by the wildcard for the module of one of its bases."""
    assert [] == names(make_router({"builtins.*": ["a"]}), Leaf())


@pytest.mark.parametrize("route", [Base, f"{HERE}.Base", object])
def test_a_route_by_class_switches_wildcards_and_own_transports_off(route: Route) -> None:
    """What the configuration says about a class, or a base of it, counts alone."""
    assert ["a"] == names(make_router({"*": ["b"], f"{HERE}.*": ["c"], route: ["a"]}, {Leaf: ["d"]}), Leaf())


def test_the_classes_own_transport_comes_before_wildcards() -> None:
    """What a class names itself counts where the configuration has only wildcards for it."""
    assert ["d"] == names(make_router({"*": ["b"], f"{HERE}.*": ["c"]}, {Leaf: ["d"]}), Leaf())
    assert ["c"] == names(make_router({"*": ["b"], f"{HERE}.*": ["c"]}, {Leaf: ["d"]}), Other())


def test_own_transports_are_inherited_and_add_up() -> None:
    """What the bases name counts too, the nearest first, none twice."""
    router = make_router({}, {Base: ["a", "b"], Leaf: ["c", "a"]})
    assert ["c", "a", "b"] == names(router, Leaf())
    assert ["a", "b"] == names(router, Middle())
    assert [] == names(router, Other())


def test_transport_names_decide_alone() -> None:
    """The stamp overrides routes, wildcards and own transports, in its own order, none twice; the newest counts."""
    router = make_router({Leaf: ["a"], "*": ["b"]}, {Leaf: ["c"]})
    assert ["d", "b"] == names(router, Leaf(), stamps.TransportNames(["d", "b", "d"]))
    assert ["c"] == names(router, Leaf(), stamps.TransportNames(["d"]), stamps.TransportNames(("c",)))
    assert ["a"] == names(router, Leaf())


def test_no_transport_names_means_here() -> None:
    """An empty list overrides everything too: the message is handled here."""
    assert [] == names(make_router({Leaf: ["a"], "*": ["b"]}, {Leaf: ["c"]}), Leaf(), stamps.TransportNames([]))


@pytest.mark.parametrize("routes", [{Leaf: ["nobody"]}, {"*": ["nobody"]}, {Leaf: ["a", "nobody"]}])
def test_a_route_to_an_unknown_transport_is_an_error(routes: Mapping[Route, Sequence[str]]) -> None:
    """The error names what was looked for, and what there is; it is raised each time."""
    router = make_router(routes)
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            names(router, Leaf())
        assert "There is no transport 'nobody'. Transports: a, b, c, d." == str(caught.value)


def test_an_unknown_name_in_the_stamp_is_an_error() -> None:
    """So is a name that only one message asks for; other messages are routed all the same."""
    router = make_router({Leaf: ["a"]})
    with pytest.raises(ConfigurationError, match="There is no transport 'nobody'"):
        names(router, Leaf(), stamps.TransportNames(["a", "nobody"]))
    assert ["a"] == names(router, Leaf())


def test_without_any_transport_the_error_says_so() -> None:
    """Where there are no transports at all, the list is the word none."""
    with pytest.raises(ConfigurationError, match=r"There is no transport 'a'\. Transports: none\."):
        Router({}, {Leaf: ["a"]}).senders_for(Envelope.wrap(Leaf()))


def test_what_was_found_is_kept_until_forgotten() -> None:
    """A class that names its transport later is looked up anew once the router was told to forget."""
    own: dict[type, Sequence[str]] = {}
    router = make_router({"*": ["a"]}, own)
    assert ["a"] == names(router, Leaf())
    own[Base] = ["b"]
    router.forget()
    assert ["b"] == names(router, Leaf())


def test_the_stamp_leaves_nothing_behind() -> None:
    """What one message asked for is not kept for the next of its class."""
    router = make_router({Leaf: ["a"]})
    assert ["b"] == names(router, Leaf(), stamps.TransportNames(["b"]))
    assert ["a"] == names(router, Leaf())
    assert ["b"] == names(router, Leaf(), stamps.TransportNames(["b"]))


def test_names_for_tells_the_names_without_looking_for_transports() -> None:
    """Who shows the routes, as the command line does, needs no transport for it."""
    assert ["nobody", "a"] == Router({}, {Leaf: ["nobody"], Base: ["a", "nobody"]}).names_for(Leaf())


def test_a_protocol_that_cannot_be_checked_is_a_mistake_in_the_configuration() -> None:
    """A route for a protocol without @runtime_checkable is refused with a `ConfigurationError` that names it."""
    with pytest.raises(ConfigurationError, match="Unchecked"):
        names(make_router({Unchecked: ["a"]}), Leaf())


# mistakes that nothing refuses


def warnings_of(router: Router, caplog: pytest.LogCaptureFixture, *stamps_: stamps.Stamp) -> list[str]:
    """Route one message twice; return what is logged about it."""
    caplog.clear()
    for _ in range(2):
        assert {} == router.senders_for(Envelope.wrap(Other(), *stamps_))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("route", [f"{__name__}.Othre", f"{__name__}.other", "shop.messages.Other"])
def test_a_message_that_a_misspelt_route_is_meant_for(route: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is handled here, and that is said once, with the route that was probably meant for it."""
    router = Router({"a": RecordingTransport()}, {route: ["a"]})

    assert [
        f"{__name__}.Other is handled here, as no route fits it. Is it meant by the route {route!r}?"
    ] == warnings_of(router, caplog)


@pytest.mark.parametrize("route", [f"{__name__}.Brother", Leaf, "shop.*", "shop.Invoice"])
def test_a_route_that_is_for_something_else(route: Route, caplog: pytest.LogCaptureFixture) -> None:
    """A route that fits a known message, or is nothing like this one, is not taken for a misspelt one."""
    router = Router({"a": RecordingTransport()}, {route: ["a"]}, types=[("leaf", Leaf), ("brother", Brother)])

    assert [] == warnings_of(router, caplog)


def test_names_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A list of names that happens to be empty is said once, and `stamps.HERE` says that it is meant."""
    router = Router({"a": RecordingTransport()}, {Other: ["a"]})

    assert [
        f"{__name__}.Other is handled here, as stamps.TransportNames names nothing. If that is meant, write "
        "stamps.HERE."
    ] == warnings_of(router, caplog, stamps.TransportNames([]))
    assert [] == warnings_of(router, caplog, stamps.HERE)


def test_a_misspelt_transport() -> None:
    """It is answered with the nearest one."""
    with pytest.raises(
        ConfigurationError, match="^There is no transport 'ordesr'. Did you mean 'orders'\\? Transports: orders."
    ):
        Router({"orders": RecordingTransport()}, {}).senders_for(
            Envelope.wrap(Other(), stamps.TransportNames(["ordesr"]))
        )
