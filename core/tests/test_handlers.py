"""Handlers: what may be one, which messages each takes, in which order they come, and what async ones do."""

from __future__ import annotations

import abc
import asyncio
import contextvars
import functools
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    NewType,
    Optional,
    Protocol,
    TypeVar,
    Union,
    runtime_checkable,
)

import pytest

import postbus
from postbus import ConfigurationError, Envelope, Handlers, PostbusError, handles, stamps
from postbus.handlers import Handler, qualified_name

if TYPE_CHECKING:
    from nowhere import Letter, Stationery

HERE = __name__
T = TypeVar("T")


@dataclass(frozen=True)
class Mail:
    id: int = 0


@dataclass(frozen=True)
class Parcel(Mail):
    weight: float = 0.0


@dataclass(frozen=True)
class Fragile(Parcel):
    pass


@dataclass(frozen=True)
class Visit:
    who: str = "nobody"


class Letters(abc.ABC):  # noqa: B024
    """Visit is one of these by registration only."""


Letters.register(Visit)


@runtime_checkable
class Weighed(Protocol):
    """What has a data member called weight."""

    weight: float


@runtime_checkable
class Signed(Protocol):
    def sign(self) -> None: ...


class Unchecked(Protocol):
    """A protocol that isinstance refuses."""

    weight: float


class Box(Generic[T]):
    """A generic message."""


@dataclass
class Note:
    """A message that can change."""

    text: str = ""

    def sign(self) -> None: ...


Renamed = NewType("Renamed", Mail)


def only(group: Handlers) -> Handler:
    (handler,) = group
    return handler


def made(target: Any, **options: Any) -> Handler:
    """Return the handler that a target becomes."""
    group = Handlers()
    group.handler(**options)(target)
    return only(group)


def refused(target: Any, **options: Any) -> str:
    """Return what is said about a target that cannot be a handler."""
    with pytest.raises(ConfigurationError) as caught:
        Handlers().handler(**options)(target)
    (problem,) = caught.value.problems
    return problem


def names(group: Handlers, message: Any, bus: str = "main", transport: str | None = None) -> list[str]:
    return [handler.name for handler in group.handlers_for(message, bus, transport)]


def named(**options: Any) -> Handlers:
    """Return a group of handlers, each named by a keyword and given what it handles, or its options."""
    group = Handlers()
    for name, given in options.items():
        chosen = given if isinstance(given, dict) else {"handles": given}
        group.handler(name=name, **chosen)(functools.partial(echo, name))
    return group


def echo(name: str, message: Any) -> str:
    return name


def take(mail: Mail) -> Mail:
    return mail


# What may be a handler.


class Desk:
    """Handles in every way in which an object can."""

    def __call__(self, mail: Mail) -> Mail:
        return mail

    def bound(self, mail: Mail) -> Mail:
        return mail

    @classmethod
    def of_class(cls, mail: Mail) -> Mail:
        return mail

    @staticmethod
    def static(mail: Mail) -> Mail:
        return mail


class Counter(Desk):
    """Has its __call__ from a parent."""


class AsyncDesk:
    """Has an async __call__."""

    async def __call__(self, mail: Mail) -> Mail:
        return mail


async def take_async(mail: Mail) -> Mail:
    return mail


def take_and_more(mail: Mail, times: int = 1, *rest: int, more: int = 2, **others: int) -> Mail:
    return mail


def take_any_number(*mails: Mail) -> Mail:
    return mails[0]


def take_positionally(mail: Mail, envelope: Envelope, /) -> Mail:
    assert mail is envelope.message
    return mail


def logged(function: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> T:
        return function(*arguments)

    return wrapper


@logged
def decorated(mail: Mail) -> Mail:
    return mail


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (take, "take"),
        (take_async, "take_async"),
        (take_and_more, "take_and_more"),
        (take_any_number, "take_any_number"),
        (take_positionally, "take_positionally"),
        (decorated, "decorated"),
        (Desk(), "Desk"),
        (Counter(), "Counter"),
        (AsyncDesk(), "AsyncDesk"),
        (Desk().bound, "Desk.bound"),
        (Desk.of_class, "Desk.of_class"),
        (Desk.static, "Desk.static"),
        (AsyncDesk().__call__, "AsyncDesk.__call__"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_be_a_handler(target: Any, name: str) -> None:
    """A function or method, sync or async, or an object with __call__; its name is its qualified name."""
    group = Handlers()
    assert target is group.handler(target)
    handler = only(group)
    mail = Mail(1)
    assert (f"{HERE}.{name}", (Mail,)) == (handler.name, handler.types)
    assert mail is handler.handle(Envelope.wrap(mail))


def test_handles_says_it_for_what_has_no_annotation() -> None:
    """A lambda, a partial and a built-in method work when they are told what they handle."""
    seen: list[Any] = []
    group = Handlers()
    group.handler(handles=Mail, name="lambda")(lambda mail: ("lambda", mail))
    group.handler(handles=Mail, name="partial")(functools.partial(echo, "partial"))
    group.handler(handles=Mail, name="builtin")(seen.append)
    envelope = Envelope.wrap(Mail(3))
    assert [("lambda", Mail(3)), "partial", None] == [handler.handle(envelope) for handler in group]
    assert [Mail(3)] == seen


def test_a_partial_is_named_after_its_function() -> None:
    """It handles what is left of the parameters, on every Python."""

    def deliver(how: str, mail: Mail) -> str:
        return how

    handler = made(functools.partial(deliver, "by air"))
    assert (qualified_name(deliver), (Mail,)) == (handler.name, handler.types)
    assert "by air" == handler.handle(Envelope.wrap(Mail()))


@pytest.mark.parametrize(
    ("handles_", "types"),
    [
        (Mail, (Mail,)),
        ([Mail, Visit], (Mail, Visit)),
        ((Mail, "*"), (Mail, "*")),
        ("*", ("*",)),
        (Mail | Visit, (Mail, Visit)),
        (Union[Mail, Visit], (Mail, Visit)),  # noqa: UP007
        (object, (object,)),
    ],
)
def test_handles_overrides_the_annotation(handles_: Any, types: tuple[Any, ...]) -> None:
    """What is passed counts, in whichever form, and the annotation is not looked at."""

    def mistaken(number: int) -> None: ...

    assert types == made(mistaken, handles=handles_).types


def take_union(message: Mail | Visit) -> None: ...
def take_typing_union(message: Union[Mail, Visit]) -> None: ...  # noqa: UP007
def take_nested_union(message: Mail | Union[Visit, Note]) -> None: ...  # noqa: UP007
def take_annotated(message: Annotated[Mail, "registered"]) -> None: ...
def take_quoted(message: "Mail") -> None: ...  # noqa: UP037
def take_object(message: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "types"),
    [
        (take_union, (Mail, Visit)),
        (take_typing_union, (Mail, Visit)),
        (take_nested_union, (Mail, Visit, Note)),
        (take_annotated, (Mail,)),
        (take_quoted, (Mail,)),
        (take_object, (object,)),
    ],
)
def test_the_annotation_is_the_registration(function: Callable[..., Any], types: tuple[type, ...]) -> None:
    """Postponed, quoted and annotated types, and unions in either form, are understood."""
    assert types == made(function).types


def without_annotation(message): ...  # type: ignore[no-untyped-def]
def take_int(message: int) -> None: ...
def take_none(message: None) -> None: ...
def take_optional(message: Optional[Mail]) -> None: ...  # noqa: UP045
def take_mail_or_int(message: Mail | int) -> None: ...
def take_box(message: Box[int]) -> None: ...
def take_list(message: list[Mail]) -> None: ...
def take_class(message: type[Mail]) -> None: ...
def take_variable(message: T) -> None: ...
def take_renamed(message: Renamed) -> None: ...


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (without_annotation, {}),
        (take_int, {}),
        (take_none, {}),
        (take_optional, {}),
        (take_mail_or_int, {}),
        (take_box, {}),
        (take_list, {}),
        (take_class, {}),
        (take_variable, {}),
        (take_renamed, {}),
        (take, {"handles": "orders.Order"}),
        (take, {"handles": int}),
        (take, {"handles": [Mail, None]}),
        (print, {}),
    ],
)
def test_what_no_message_can_be_of_is_refused(function: Callable[..., Any], options: dict[str, Any]) -> None:
    """The error names the handler and says what to do."""
    error = refused(function, **options)
    assert error.startswith(f"Cannot tell which message {qualified_name(function)}() handles")
    assert "handles=..." in error


def take_anything(message: Any) -> None: ...


def test_any_is_no_type_of_message() -> None:
    """A handler annotated with Any is refused, or handles everything; it does not break every dispatch."""
    group = Handlers()
    try:
        group.handler(take_anything)
    except ConfigurationError:
        return
    assert [f"{HERE}.take_anything"] == names(group, Mail())


def take_unchecked(message: Unchecked) -> None: ...


def test_a_protocol_that_cannot_be_checked_is_refused() -> None:
    """The error names the handler and the protocol, and says what to do."""
    assert (
        f"{__name__}.take_unchecked() handles the protocol Unchecked, which cannot be checked when a message comes. "
        "Decorate it with @runtime_checkable." == refused(take_unchecked)
    )


def take_nothing() -> None: ...
def take_by_keyword(*, mail: Mail) -> None: ...
def take_keywords(**mails: Mail) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        take_nothing,
        take_by_keyword,
        pytest.param(take_keywords),
    ],
)
def test_a_handler_takes_the_message_by_position(function: Callable[..., Any]) -> None:
    """Without a parameter for the message, the error names the handler and says what to do."""
    assert (
        f"{__name__}.{function.__qualname__}() takes no message. Give it a first parameter annotated with one."
        == refused(function)
    )  # fmt: skip


def take_required(mail: Mail, mailer: object) -> None: ...
def take_required_keyword(mail: Mail, *, mailer: object) -> None: ...
def take_envelope_and_required(mail: Mail, envelope: Envelope, mailer: object) -> None: ...
def take_number(mail: Mail, mailer: int) -> None: ...
def take_positional(mail: Mail, envelope: Envelope, mailer: Path, /) -> None: ...


@pytest.mark.parametrize(
    "function", [take_required, take_required_keyword, take_envelope_and_required, take_number, take_positional]
)
def test_a_parameter_that_nothing_can_be_given_to_is_refused(function: Callable[..., Any]) -> None:
    """The error names the parameter and the handler, and all remedies."""
    assert (
        f"Nothing can be given to parameter 'mailer' of {__name__}.{function.__qualname__}(). Give it a default, or "
        "annotate it as Envelope, with a stamp, or with a class that app.provide() has a factory for."
        == refused(function)
    )


def test_a_method_without_its_object_is_refused() -> None:
    """A function that still wants self is not mistaken for a handler, even if told what it handles."""
    assert f"Nothing can be given to parameter 'mail' of {__name__}.Desk.bound()." in refused(Desk.bound, handles=Mail)


def test_a_class_is_refused() -> None:
    """The error says that an object is wanted, and how to pass it."""
    assert "Desk is a class. Make an object of it: app.handler(Desk(...))." == refused(Desk)


@pytest.mark.parametrize("thing", [object(), 5, "text"])
def test_what_cannot_be_called_is_refused(thing: object) -> None:
    """The error names the class and says what to give it."""
    error = refused(thing)
    assert (
        f".{type(thing).__qualname__} cannot handle anything. Give it __call__, or mark methods with @handles." in error
    )


def test_a_builtin_without_a_signature_is_a_configuration_error() -> None:
    """Where Python cannot tell the parameters, the error is still one that names the handler."""
    assert "max" in refused(max, handles=Mail)


def generate(mail: Mail) -> Iterator[Mail]:
    yield mail


async def generate_async(mail: Mail) -> AsyncIterator[Mail]:
    yield mail


@pytest.mark.parametrize("function", [generate, generate_async])
def test_a_generator_is_no_handler(function: Callable[..., Any]) -> None:
    """A function with a yield in it would never run, and its messages be lost: it is refused by name."""
    assert function.__qualname__ in refused(function)


@logged
async def decorated_async(mail: Mail) -> Mail:
    return mail


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(
    ("target", "options"),
    [
        (decorated_async, {}),
        (functools.partial(take_async), {"handles": Mail}),
        (lambda mail: take_async(mail), {"handles": Mail}),
    ],
    ids=["decorated", "partial", "lambda"],
)
def test_what_returns_a_coroutine_is_awaited(target: Any, options: dict[str, Any]) -> None:
    """An async function inside a decorator, a partial or a lambda runs like any other."""
    result = made(target, **options).handle(Envelope.wrap(Mail(1)))
    if asyncio.iscoroutine(result):
        result.close()
    assert Mail(1) == result


@pytest.mark.parametrize("handles_", [(), []])
def test_a_handler_of_nothing_is_refused(handles_: Any) -> None:
    """An empty list of types would make a handler that no message ever reaches."""
    assert "take" in refused(take, handles=handles_)


# Annotations.


def take_letter(letter: Letter) -> None: ...


def test_a_type_that_is_only_there_for_the_type_checker_is_refused() -> None:
    """The error names the handler and the type, and says both remedies; with handles=... it works."""
    assert (
        f"Cannot tell which message {__name__}.take_letter() handles: name 'Letter' is not defined. Import it at run "
        "time, or pass handles=..." == refused(take_letter)
    )
    assert (Mail,) == made(take_letter, handles=Mail).types


def take_with_envelope(letter: Letter, envelope: Envelope) -> Envelope:
    return envelope


def test_the_envelope_is_found_beside_a_type_that_cannot_be_looked_up() -> None:
    """With handles=..., a first annotation that means nothing at run time does not hide the second."""
    envelope = Envelope.wrap(Mail())
    assert envelope is made(take_with_envelope, handles=Mail).handle(envelope)


def take_with_qualified_envelope(letter: Letter, envelope: postbus.Envelope) -> Envelope:
    return envelope


def test_the_envelope_is_found_under_any_name() -> None:
    """However the class is written, the parameter gets the envelope."""
    envelope = Envelope.wrap(Mail())
    assert envelope is made(take_with_qualified_envelope, handles=Mail).handle(envelope)


def reply(mail: Mail) -> Letter: ...  # type: ignore[empty-body]
def write(mail: Mail, on: Stationery | None = None) -> None: ...


@pytest.mark.parametrize("function", [reply, write])
def test_only_the_annotations_that_are_needed_must_resolve(function: Callable[..., Any]) -> None:
    """Where the message's type can be looked up, a return type for the type checker only does no harm."""
    assert (Mail,) == made(function).types


def take_missing(mail: postbus.Nothing) -> None: ...  # type: ignore[name-defined]
def take_nonsense(mail: "Mail oder so") -> None: ...  # type: ignore[valid-type]  # noqa: F722


@pytest.mark.parametrize("function", [take_missing, take_nonsense])
def test_an_annotation_that_cannot_be_looked_up_is_a_configuration_error(function: Callable[..., Any]) -> None:
    """Whatever is wrong with the annotation, the error names the handler."""
    assert f"Cannot tell which message {qualified_name(function)}() handles" in refused(function)


# The envelope as second parameter.


def give_envelope(mail: Mail, envelope: Envelope) -> Envelope:
    return envelope


async def give_envelope_async(mail: Mail, envelope: Envelope) -> Envelope:
    return envelope


def give_default(mail: Mail, envelope: Any = None) -> Any:
    return envelope


class EnvelopeDesk:
    def __call__(self, mail: Mail, an_envelope: Envelope) -> Envelope:
        return an_envelope


@pytest.mark.parametrize("target", [give_envelope, give_envelope_async, EnvelopeDesk(), EnvelopeDesk().__call__])
def test_a_second_parameter_gets_the_envelope(target: Any) -> None:
    """Whatever it is called, a second parameter annotated Envelope gets the envelope as it is."""
    envelope = Envelope.wrap(Mail(), stamps.BusName("main"))
    assert envelope is made(target).handle(envelope)


def test_a_second_parameter_without_the_annotation_keeps_its_default() -> None:
    """The name of a parameter does not matter, only what it is annotated with."""
    assert made(give_default).handle(Envelope.wrap(Mail())) is None


def take_envelope_by_keyword(mail: Mail, *, envelope: Envelope) -> Envelope:
    return envelope


def test_an_envelope_by_keyword_is_given_or_refused() -> None:
    """A keyword-only parameter annotated Envelope gets the envelope, or is refused when it is registered."""
    envelope = Envelope.wrap(Mail())
    group = Handlers()
    try:
        group.handler(take_envelope_by_keyword)
    except ConfigurationError:
        return
    assert envelope is only(group).handle(envelope)


# Which handlers a message gets.


def test_a_handler_gets_its_type_and_what_is_derived_from_it() -> None:
    """A base class handles what is derived from it, and a derived class not its base."""
    group = named(mail=Mail, parcel=Parcel, visit=Visit)
    assert ["parcel", "mail"] == names(group, Fragile())
    assert ["parcel", "mail"] == names(group, Parcel())
    assert ["mail"] == names(group, Mail())
    assert ["visit"] == names(group, Visit())
    assert [] == names(group, Note())


def test_a_handler_gets_what_satisfies_its_protocol_or_virtual_base() -> None:
    """Protocols with methods or with data, and ABCs that a class was registered with, are types like any other."""
    group = named(weighed=Weighed, signed=Signed, letters=Letters)
    assert ["weighed"] == names(group, Parcel())
    assert ["signed"] == names(group, Note())
    assert ["letters"] == names(group, Visit())
    assert [] == names(group, Mail())


def test_a_union_gets_each_of_its_types() -> None:
    """A message that several members fit is handled once, and the closest of them counts for the order."""
    group = named(union=[Mail, Fragile, Visit], parcel=Parcel)
    assert ["union", "parcel"] == names(group, Fragile())
    assert ["parcel", "union"] == names(group, Parcel())
    assert ["union"] == names(group, Visit())


def test_the_star_gets_everything() -> None:
    """A handler for "*" gets every message, also one of a built-in type."""
    assert [["all"]] * 3 == [names(named(all="*"), message) for message in (Mail(), Note(), "text")]


def test_the_closest_type_comes_first() -> None:
    """Class, bases nearest first, object, protocols and virtual bases, the star; whatever the order of registration."""
    expected = ["fragile", "parcel", "mail", "object", "weighed", "star"]
    types = {"fragile": Fragile, "parcel": Parcel, "mail": Mail, "object": object, "weighed": Weighed, "star": "*"}
    for seed in range(20):
        shuffled = random.Random(seed).sample(sorted(types), len(types))
        assert expected == names(named(**{name: types[name] for name in shuffled}), Fragile())


def test_of_equally_close_types_the_first_registered_comes_first() -> None:
    """Ties keep the order in which the handlers were added."""
    for order in (["a", "b", "c"], ["c", "a", "b"]):
        assert order == names(named(**dict.fromkeys(order, Mail)), Parcel())


def test_priority_beats_closeness() -> None:
    """A higher priority comes first, also from a base class or the star; a negative one last."""
    group = named(
        exact={"handles": Fragile},
        last={"handles": Fragile, "priority": -1},
        base={"handles": Mail, "priority": 1},
        star={"handles": "*", "priority": 10},
    )
    assert ["star", "base", "exact", "last"] == names(group, Fragile())


def test_a_handler_may_be_for_one_bus() -> None:
    """It gets the messages of that bus only; one without a bus gets those of all."""
    group = named(both=Mail, main={"handles": Mail, "bus": "main"}, other={"handles": Mail, "bus": "other"})
    assert ["both", "main"] == names(group, Mail(), bus="main")
    assert ["both", "other"] == names(group, Mail(), bus="other")
    assert ["both"] == names(group, Mail(), bus="third")


def test_a_handler_may_be_for_one_transport() -> None:
    """It gets what came from that transport, or did not come from any; one without gets all."""
    group = named(all=Mail, a={"handles": Mail, "from_transport": "a"}, b={"handles": Mail, "from_transport": "b"})
    assert ["all", "a"] == names(group, Mail(), transport="a")
    assert ["all", "b"] == names(group, Mail(), transport="b")
    assert ["all"] == names(group, Mail(), transport="c")
    assert ["all", "a", "b"] == names(group, Mail(), transport=None)


def test_a_handler_that_is_added_later_is_found() -> None:
    """What was found for a message before does not hide it."""
    group = named(first=Mail)
    assert ["first"] == names(group, Mail())
    group.handler(handles=Mail, name="second", priority=1)(take)
    assert ["second", "first"] == names(group, Mail())


@dataclass
class Sparse:
    """A message whose objects differ in what they have."""

    weight: float

    def __init__(self, **fields: float) -> None:
        self.__dict__.update(fields)


# Names.


def test_one_function_may_be_added_twice() -> None:
    """The same handler again changes nothing, also for methods of the same object."""
    group, desk = Handlers(), Desk()
    for target in (take, take, desk.bound, desk.bound, desk, desk):
        group.handler(target)
    assert [f"{HERE}.{name}" for name in ("take", "Desk.bound", "Desk")] == [handler.name for handler in group]


def test_one_function_with_other_options_is_not_ignored() -> None:
    """The same function for another bus is another handler: it is added or refused, not forgotten."""
    group = Handlers()
    group.handler(bus="one")(take)
    try:
        group.handler(bus="two")(take)
    except ConfigurationError:
        return
    assert [1, 1] == [len(names(group, Mail(), bus=bus)) for bus in ("one", "two")]


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (Desk(), Desk(), "Desk"),
        (Desk().bound, Desk().bound, "Desk.bound"),
        (lambda mail: 1, lambda mail: 2, "<lambda>"),
    ],
    ids=["objects", "methods", "lambdas"],
)
def test_two_handlers_of_one_name_are_refused(first: Any, second: Any, name: str) -> None:
    """The name is the identity, so it must differ; the error names it and says what to do, and the first one stays."""
    group = Handlers()
    group.handler(handles=Mail)(first)
    with pytest.raises(ConfigurationError) as caught:
        group.handler(handles=Mail)(second)
    assert (
        f"Two handlers are named '{HERE}.{name}'. A handler's name tells which have succeeded when a message is "
        "retried; give one of them another: name=..." == str(caught.value)
    )
    assert 1 == len(list(group))
    group.handler(handles=Mail, name="another")(second)
    assert 2 == len(names(group, Mail()))


def test_a_given_name_is_the_name() -> None:
    """A name that is given takes the place of the qualified one, and may not be taken either."""
    group = Handlers()
    group.handler(name="receipts")(take)
    with pytest.raises(ConfigurationError, match="Two handlers are named 'receipts'"):
        group.handler(name="receipts")(take_async)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["shop/main.py"], "main"), (["-m", "shop.main"], "shop.main"), (["-c", "import shop.main"], "shop.main")],
)
def test_a_started_program_has_its_modules_name(tmp_path: Any, arguments: list[str], expected: str) -> None:
    """What the program itself defines is not called __main__, which would be another thing in each process."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "main.py").write_text(
        "from postbus.handlers import qualified_name\n"
        "class Order:\n"
        "    class Line: ...\n"
        "print(qualified_name(Order.Line))\n"
    )
    assert f"{expected}.Order.Line" == run(tmp_path, *arguments)


@pytest.mark.slow
def test_a_process_that_multiprocessing_spawned_has_the_same_names(tmp_path: Any) -> None:
    """What the program defines has the same name in the program and in the processes that it spawns."""
    (tmp_path / "shop.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing
            from postbus.handlers import qualified_name

            class Order: ...

            def show():
                print(qualified_name(Order), flush=True)

            if __name__ == "__main__":
                show()
                child = multiprocessing.get_context("spawn").Process(target=show)
                child.start()
                child.join()
            """
        )
    )
    assert "shop.Order\nshop.Order" == run(tmp_path, "shop.py")


def run(folder: Any, *arguments: str) -> str:
    """Return what a Python process in a folder printed."""
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "" == finished.stderr
    return finished.stdout.strip()


def test_a_qualified_name_is_module_and_name() -> None:
    """Classes, nested classes, functions and local ones all have one."""
    assert [f"{HERE}.Mail", f"{HERE}.Desk.bound", "builtins.int"] == [
        qualified_name(thing) for thing in (Mail, Desk().bound, int)
    ]


# Objects with several handlers.


class Office:
    """Has several marked methods, and one that is not."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.seen: list[object] = []

    @handles
    def on_mail(self, mail: Mail) -> str:
        return f"{self.name} mail"

    @handles(priority=5, from_transport="a")
    def on_visit(self, visit: Visit) -> str:
        return f"{self.name} visit"

    @handles(handles=[Note, Box], name="notes")
    async def on_note(self, note: Any, envelope: Envelope) -> str:
        return f"{self.name} {envelope.message.text}"

    def unmarked(self, mail: Mail) -> None: ...

    def __call__(self, mail: Mail) -> None: ...


class Branch(Office):
    """Takes one method over, takes another over without the mark, and adds one."""

    @handles(priority=-1)
    def on_mail(self, mail: Mail) -> str:
        return f"{self.name} branch mail"

    def on_visit(self, visit: Visit) -> str:
        return ""

    @handles
    def on_parcel(self, parcel: Parcel) -> str:
        return f"{self.name} parcel"


def answers(group: Handlers, message: Any) -> list[str]:
    return [handler.handle(Envelope.wrap(message)) for handler in group.handlers_for(message, "main", None)]


def test_an_object_may_have_several_handlers() -> None:
    """Each marked method is a handler with its own options; __call__ and unmarked methods are none then."""
    group = Handlers()
    office = Office("main")
    assert office is group.handler(office)
    found = {handler.name: handler for handler in group}
    assert {f"{HERE}.Office.on_mail", f"{HERE}.Office.on_visit", "notes"} == set(found)
    visit = found[f"{HERE}.Office.on_visit"]
    assert (5, "a", (Visit,)) == (visit.priority, visit.from_transport, visit.types)
    assert (Note, Box) == found["notes"].types
    assert [["main mail"], ["main visit"], ["main hello"]] == [
        answers(group, message) for message in (Mail(), Visit(), Note("hello"))
    ]


def test_options_of_the_object_hold_for_each_method_unless_it_says_otherwise() -> None:
    """What is given with the object is the default for its methods."""
    group = Handlers()
    group.handler(bus="main", priority=1)(Office())
    assert {("main", 1), ("main", 5)} == {(handler.bus, handler.priority) for handler in group}


def test_marked_methods_are_inherited() -> None:
    """A derived class has its parent's handlers; what it takes over it must mark anew, and its own count too."""
    group = Handlers()
    group.handler(Branch("b"))
    assert ["b parcel", "b branch mail"] == answers(group, Parcel())
    assert [] == answers(group, Visit())
    assert ["b hello"] == answers(group, Note("hello"))


def test_a_marked_method_is_still_a_method() -> None:
    """The mark changes nothing about how it is called otherwise."""
    assert " mail" == Office().on_mail(Mail())


class Plain:
    """A class with one handler to inherit."""

    @handles
    def on_mail(self, mail: Mail) -> str:
        return type(self).__name__


class PlainWest(Plain):
    pass


class PlainEast(Plain):
    pass


def test_objects_of_two_classes_do_not_clash_over_what_they_inherit() -> None:
    """The name of a method's handler begins with the class of its object, as that of a callable object does."""
    group = Handlers()
    group.handler(PlainWest())
    group.handler(PlainEast())
    assert ["PlainWest", "PlainEast"] == answers(group, Mail())


def test_two_objects_of_a_class_with_several_handlers_can_be_told_apart() -> None:
    """The remedy that the error names, name=..., works for an object with more than one handler."""
    group = Handlers()
    group.handler(name="west")(Twice("west"))
    group.handler(name="east")(Twice("east"))
    assert ["west", "east"] == answers(group, Mail())


class Twice:
    """Two handlers, none of them with a name of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    @handles
    def on_mail(self, mail: Mail) -> str:
        return self.name

    @handles
    def on_visit(self, visit: Visit) -> str:
        return self.name


class StaticOffice:
    """Has marked methods that need no object."""

    @staticmethod
    @handles
    def inner_static(mail: Mail) -> str:
        return "inner static"

    @classmethod
    @handles
    def inner_class(cls, mail: Mail) -> str:
        return "inner class"

    @handles
    @staticmethod
    def outer_static(mail: Mail) -> str:
        return "outer static"

    @handles
    @classmethod
    def outer_class(cls, mail: Mail) -> str:
        return "outer class"


@pytest.mark.parametrize(
    "name",
    [
        "inner_static",
        "inner_class",
        pytest.param("outer_static"),
        pytest.param("outer_class"),
    ],
)
def test_static_and_class_methods_may_be_marked(name: str) -> None:
    """Whichever decorator stands outside, a marked method is a handler."""
    group = Handlers()
    group.handler(StaticOffice())
    assert name.replace("_", " ") in answers(group, Mail())


class OnlyForObjects:
    """A descriptor that the class itself does not have."""

    def __get__(self, instance: object, owner: type) -> int:
        if instance is None:
            raise AttributeError("only objects have it")
        return 5


class Peculiar:
    """Callable, with such a descriptor."""

    field = OnlyForObjects()

    def __call__(self, mail: Mail) -> str:
        return "called"


def test_an_attribute_that_cannot_be_read_from_the_class_does_no_harm() -> None:
    """Looking for marked methods does not trip over the other things that a class has."""
    group = Handlers()
    group.handler(Peculiar())
    assert ["called"] == answers(group, Mail())


# Groups.


def test_a_group_is_included_in_its_order() -> None:
    """The handlers of an included group come after those that are there, and twice changes nothing."""
    group, other = named(a=Mail), named(b=Mail, c=Mail)
    group.include(other)
    group.include(other)
    assert ["a", "b", "c"] == names(group, Mail())
    assert ["b", "c"] == names(other, Mail())


def test_including_a_name_that_is_taken_is_refused() -> None:
    """Two groups may not have different handlers of one name."""
    with pytest.raises(ConfigurationError, match="Two handlers are named 'a'"):
        named(a=Mail).include(named(a=Mail))


def test_including_forgets_what_was_found() -> None:
    """A message that had no handler before has those of the included group afterwards."""
    group = Handlers()
    assert [] == names(group, Mail())
    group.include(named(a=Mail))
    assert ["a"] == names(group, Mail())


def test_the_decorator_returns_what_it_decorates() -> None:
    """With and without options the function stays what it is."""
    group = Handlers()
    assert take is group.handler(take)
    assert take_async is group.handler(priority=1)(take_async)


# Async handlers.

current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="nothing")


def test_async_handlers_of_several_threads_run_at_once() -> None:
    """One that waits for another does not keep it from running: all are on one loop, on a thread of its own."""
    group = Handlers()
    everybody = 4
    arrived: list[int] = []
    loops: set[asyncio.AbstractEventLoop] = set()
    all_here = asyncio.Event()

    @group.handler
    async def meet(mail: Mail) -> int:
        loops.add(asyncio.get_running_loop())
        arrived.append(mail.id)
        if len(arrived) == everybody:
            all_here.set()
        await all_here.wait()
        return mail.id

    with ThreadPoolExecutor(everybody) as pool:
        results = pool.map(lambda number: only(group).handle(Envelope.wrap(Mail(number))), range(everybody))
        assert list(range(everybody)) == list(results)
    assert 1 == len(loops)


def test_an_async_handler_sees_the_context_variables_of_its_caller() -> None:
    """Each call has those of the thread that it was made from; what it sets itself stays in it."""
    group = Handlers()

    @group.handler
    async def look(mail: Mail) -> str:
        await asyncio.sleep(0)
        found = current.get()
        current.set("changed")
        return found

    def call(name: str) -> tuple[str, str]:
        current.set(name)
        return only(group).handle(Envelope.wrap(Mail())), current.get()

    with ThreadPoolExecutor(4) as pool:
        expected = [f"thread {number}" for number in range(20)]
        assert [(name, name) for name in expected] == list(pool.map(call, expected))
    assert "nothing" == only(group).handle(Envelope.wrap(Mail()))


def test_what_an_async_handler_raises_reaches_the_caller() -> None:
    """The very error comes out, and the next message is handled as if nothing had been."""
    group = Handlers()
    error = ValueError("no")

    @group.handler
    async def fail(mail: Mail) -> str:
        await asyncio.sleep(0)
        if mail.id == 1:
            raise error
        return "fine"

    with pytest.raises(ValueError, match="no") as caught:
        only(group).handle(Envelope.wrap(Mail(1)))
    assert error is caught.value
    assert "fine" == only(group).handle(Envelope.wrap(Mail(2)))


def test_a_cancelled_async_handler_is_an_ordinary_failure() -> None:
    """A handler that was cancelled raises an `Exception`, so that its message is retried and nothing hangs."""
    group = Handlers()

    @group.handler
    async def give_up(mail: Mail) -> None:
        raise asyncio.CancelledError

    with pytest.raises(Exception) as caught:  # noqa: PT011
        only(group).handle(Envelope.wrap(Mail()))
    assert "CancelledError" == type(caught.value).__name__


@pytest.mark.slow
def test_an_async_handler_that_exits_does_not_hang_its_caller(tmp_path: Any) -> None:
    """What an async handler raises reaches the caller, also SystemExit, as it does from a plain one."""
    (tmp_path / "shop.py").write_text(
        textwrap.dedent(
            """
            import os, threading
            from dataclasses import dataclass
            from postbus import Envelope, Handlers

            @dataclass
            class Mail: ...

            group = Handlers()

            @group.handler
            async def leave(mail: Mail):
                raise SystemExit(3)

            def call():
                try:
                    next(iter(group)).handle(Envelope.wrap(Mail()))
                except BaseException as error:
                    print(type(error).__name__, flush=True)

            caller = threading.Thread(target=call, daemon=True)
            caller.start()
            caller.join(2)
            os._exit(caller.is_alive())
            """
        )
    )
    finished = subprocess.run(
        [sys.executable, "shop.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (0, "SystemExit") == (finished.returncode, finished.stdout.strip())


def test_waiting_for_an_async_handler_on_its_own_loop_is_an_error() -> None:
    """An async handler that calls another one and waits would wait for ever: the error names it and the remedy."""
    group = Handlers()

    @group.handler(name="inner")
    async def inner(visit: Visit) -> None: ...

    @group.handler(name="outer")
    async def outer(mail: Mail) -> None:
        (found,) = group.handlers_for(Visit(), "main", None)
        found.handle(Envelope.wrap(Visit()))

    (found,) = group.handlers_for(Mail(), "main", None)
    with pytest.raises(PostbusError) as caught:
        found.handle(Envelope.wrap(Mail()))
    assert (
        "An async handler dispatched a message to the async handler inner, and waits for it on the loop that both run "
        "on. Use `await app.dispatch_async(...)` there." == str(caught.value)
    )


def test_an_async_handler_may_call_a_plain_one() -> None:
    """What needs no loop runs where it is called."""
    group = Handlers()
    group.handler(take)

    @group.handler(handles=Visit)
    async def outer(visit: Visit) -> Any:
        return only_for(group, Mail()).handle(Envelope.wrap(Mail(7)))

    assert Mail(7) == only_for(group, Visit()).handle(Envelope.wrap(Visit()))


def test_an_async_handler_may_wait_for_another_in_a_thread() -> None:
    """Off the loop, waiting for another async handler works."""
    group = Handlers()
    group.handler(take_async)

    @group.handler(handles=Visit)
    async def outer(visit: Visit) -> Any:
        return await asyncio.to_thread(only_for(group, Mail()).handle, Envelope.wrap(Mail(7)))

    assert Mail(7) == only_for(group, Visit()).handle(Envelope.wrap(Visit()))


def test_an_async_handler_can_be_called_where_a_loop_runs() -> None:
    """A program with an event loop of its own may call an async handler from it, blocking that loop."""
    group = Handlers()
    group.handler(take_async)

    async def main() -> Any:
        return only(group).handle(Envelope.wrap(Mail(7)))

    assert Mail(7) == asyncio.run(main())


def only_for(group: Handlers, message: Any) -> Handler:
    (found,) = group.handlers_for(message, "main", None)
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_async_handlers_work_after_a_fork() -> None:
    """A forked process, in which the loop's thread is gone, gets a loop of its own, and the parent keeps its own."""
    group = Handlers()
    group.handler(take_async)
    assert Mail(1) == only(group).handle(Envelope.wrap(Mail(1)))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(only(group).handle(Envelope.wrap(Mail(2)))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert str(Mail(2)) == said
    assert Mail(3) == only(group).handle(Envelope.wrap(Mail(3)))
