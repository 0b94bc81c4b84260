"""``postbus certify``: how far a plugin's own tests prove what it promises, as a level.

It runs the tests, and looks at what of them are the kit's, and what became of those.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import click
import msgspec
from msgspec import Struct

from postbus.cli.options import format_option
from postbus.cli.output import print_json, print_table
from postbus.testing.promises import PROOFS

LEVELS = ("none", "bronze", "silver", "gold", "platinum")
"""From the lowest to the highest; each takes all that those below it take."""

HISTORIES = 1000
"""How many histories are needed for silver."""


VARIABLE = "POSTBUS_CERTIFY"
"""The variable of the environment that says in which file the witness is to write."""


class Seen(Struct):
    """One test, as `postbus.testing.witness` writes it down."""

    test: str
    proves: str
    """The id of a rule, "histories", "faults", what `proves` says, or nothing at all."""
    outcome: str = "passed"
    """Besides what pytest has: "unproven" where a hook lacks, and "broken" for a new rule that does not hold yet."""
    says: str = ""
    """A line that the test has said about what came out."""


class Proof(Struct, frozen=True):
    """One thing that a level asks for, whether it is proven, and by what."""

    level: Literal["bronze", "silver", "gold", "platinum"]
    what: str
    is_proven: bool
    by: str


class Certificate(Struct, frozen=True):
    """What a plugin's tests have proven."""

    package: str
    level: str
    proofs: Sequence[Proof]


@click.command(
    epilog="""
    \b
    Examples: postbus certify .
              postbus certify postbus-carrier --at-least gold -- -k "not slow"
    """
)
@click.argument("package", default=".")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--histories", type=click.IntRange(1), default=HISTORIES, show_default=True, help="How many; silver needs 1000."
)
@click.option("--kills", type=click.IntRange(1), default=50, show_default=True, help="How many workers are killed.")
@click.option(
    "--at-least",
    type=click.Choice(LEVELS[1:]),
    default="bronze",
    show_default=True,
    help="Exit with 1 if the level is lower.",
)
@format_option
@click.pass_context
def certify(
    context: click.Context,
    package: str,
    arguments: tuple[str, ...],
    histories: int,
    kills: int,
    at_least: str,
    format: str,
) -> None:
    """Run the tests of a plugin, and say what they prove.

    It is said as a level, with what shows it. PACKAGE is the folder of the plugin's source, or its name if it is
    installed from there (pip install --editable). It and "postbus[testing]" are installed where this runs. What
    follows "--" goes to pytest.

    Bronze: no rule of the contract is broken. Silver: 1000 histories, restarts of the broker, and what other
    programs write. Gold: workers are killed, and no message is lost. Platinum: strict types, a benchmark, and a
    queue that is shared with another system; a test shows one of the last two that is marked with "proves", from
    postbus.testing.
    """
    folder = _folder_of(package)
    for needed in ("pytest", "hypothesis"):
        if find_spec(needed) is None:
            raise click.ClickException(f'There is no {needed}. Install it: pip install "postbus[testing]"')
    seen = _run(folder, arguments, {"POSTBUS_TEST_HISTORIES": str(histories), "POSTBUS_TEST_KILLS": str(kills)})
    proofs = [*proofs_of(seen, histories), _strict_types(folder)]
    certificate = Certificate(_name_of(folder), level_of(proofs), proofs)
    if format == "json":
        print_json(certificate)
    else:
        rows = [(proof.level, proof.what, "yes" if proof.is_proven else "NO", proof.by) for proof in proofs]
        print_table(("Level", "Asks for", "Proven", "By"), sorted(rows, key=lambda row: LEVELS.index(row[0])))
        click.echo(f"{certificate.package}: {certificate.level}")
    if LEVELS.index(certificate.level) < LEVELS.index(at_least):
        context.exit(1)


def level_of(proofs: Sequence[Proof]) -> str:
    """Return the highest level of which all is proven, and of all below it too."""
    reached = "none"
    for level in LEVELS[1:]:
        if not all(proof.is_proven for proof in proofs if proof.level == level):
            break
        reached = level
    return reached


def proofs_of(seen: Sequence[Seen], histories: int) -> Iterator[Proof]:
    """Yield what these tests prove, or do not."""

    def about(wanted: Callable[[str], bool]) -> list[Seen]:
        return [one for one in seen if wanted(one.proves)]

    # One class may have a broker that its tests may stop, while another of the same plugin is about something else.
    passed = {one.proves for one in seen if one.outcome == "passed"}

    def rules(of: str) -> list[Seen]:
        found = about(lambda proves: proves.startswith(f"{of}-"))
        return [one for one in found if one.outcome != "unproven" or one.proves not in passed]

    contract = about(lambda proves: "-" in proves)
    others = about(lambda proves: "-" not in proves)
    yield Proof("bronze", "the contract", _hold(contract, whole=False), _shown(contract, "TransportContract"))
    yield Proof("bronze", "the plugin's other tests", _hold(others, whole=False) or not others, _shown(others, ""))
    some = about(lambda proves: proves == "histories")
    words = f"{histories} each: {_shown(some, '')}" if some else _shown(some, "TransportHistories")
    yield Proof("silver", f"{HISTORIES} histories", _hold(some) and histories >= HISTORIES, words)
    for what, group, hook in (
        ("restarts of the broker", "restarts", "broker()"),
        ("what other programs write", "foreign", "put_foreign()"),
    ):
        yield Proof("silver", what, _hold(rules(group)), _shown(rules(group), hook))
    some = about(lambda proves: proves == "faults")
    yield Proof("gold", "workers killed, 0 messages lost", _hold(some), _shown(some, "TransportFaults"))
    for what in PROOFS:
        some = [one for one in seen if one.proves == what]
        yield Proof("platinum", what, _hold(some), _shown(some, f'test with proves("{what}")'))


def _hold(seen: Sequence[Seen], *, whole: bool = True) -> bool:
    """Say whether something passed and nothing failed; and, if it is to be the whole, whether no hook was missing."""
    outcomes = {one.outcome for one in seen}
    return "passed" in outcomes and "failed" not in outcomes and not (whole and outcomes & {"unproven", "broken"})


def _shown(seen: Sequence[Seen], missing: str) -> str:
    """Say how many tests passed, and which did not, and what they have said; or what lacks."""
    if not seen:
        return f"nothing: the tests have no {missing}" if missing else "there are none"
    numbers = Counter(one.outcome for one in seen)
    words = ", ".join(f"{number} {outcome}" for outcome, number in numbers.items())
    if numbers["unproven"] and missing:
        words += f", for lack of {missing}"
    lines = [one.test.rpartition("::")[2] for one in seen if one.outcome in ("failed", "broken")]
    return "; ".join([words, *lines, *dict.fromkeys(one.says for one in seen if one.says)])


def _strict_types(folder: Path) -> Proof:
    """See what mypy has against the types that the plugin says that it has."""
    what = "strict types"
    if not [*folder.glob("src/*/py.typed")]:
        return Proof("platinum", what, False, "nothing: there is no src/…/py.typed")
    if find_spec("mypy") is None:
        return Proof("platinum", what, False, "nothing: there is no mypy here; pip install mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "src"], cwd=folder, capture_output=True, text=True, check=False
    )
    return Proof("platinum", what, done.returncode == 0, f"mypy --strict: {done.stdout.strip().splitlines()[-1]}")


def _run(folder: Path, arguments: Sequence[str], variables: dict[str, str]) -> list[Seen]:
    """Run the tests, whose output goes to stderr, and return what the witness saw."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "seen.json")
        # What is missing is no proof, so it may not be skipped; and what was asked for may take its time.
        lasting = {"POSTBUS_REQUIRE_BROKERS": "1", "PYTEST_TIMEOUT": "0"}
        # With -P as the command `pytest` does it: no module there takes the place of another for being in its folder.
        command = [sys.executable, "-P", "-m", "pytest", "-p", "postbus.testing.witness", "tests", *arguments]
        environment = {**lasting, **os.environ, **variables, VARIABLE: str(path)}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=False)  # noqa: S603
        if not path.exists():
            raise click.ClickException(f"The tests in {folder} did not run; pytest ended with {done.returncode}.")
        return msgspec.json.decode(path.read_bytes(), type=list[Seen])


def _folder_of(package: str) -> Path:
    """Return the folder with the source of a package."""
    folder = Path(package)
    if not (folder / "pyproject.toml").is_file():
        try:
            installed = metadata.distribution(package).read_text("direct_url.json")
        except (metadata.PackageNotFoundError, ValueError):
            raise click.UsageError(f"{package!r} is neither a folder with a pyproject.toml nor installed.") from None
        url = str(msgspec.json.decode(installed)["url"]) if installed else ""
        folder = Path(unquote(urlsplit(url).path))
    if not (folder / "tests").is_dir():
        raise click.UsageError(f"The tests of {package!r} are not here. Name the folder of its source.")
    return folder.resolve()


def _name_of(folder: Path) -> str:
    """Return the name and the version of the distribution in a folder, as its pyproject.toml says."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['name']} {project.get('version', '')}".rstrip()
