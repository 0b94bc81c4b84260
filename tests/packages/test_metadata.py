"""What a package says of itself is complete, and names only what there is."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECTS = {
    path.parent: tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    for path in (ROOT / "core/pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml")))
}
CORE = PROJECTS[ROOT / "core"]
PLUGINS = {project["name"]: project for folder, project in PROJECTS.items() if folder.parent.name == "plugins"}

WANTED = set(
    "name version description readme requires-python license license-files authors keywords classifiers".split()
)

FOR_DEVELOPMENT = {"testing", "watch"}
"""The extras that no program needs while it runs."""

ANY_PACKAGE = pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)


def extras_of(requirements):
    """Return what is asked for, as each distribution and its extras."""
    asked = {}
    for requirement in map(Requirement, requirements):
        asked.setdefault(requirement.name.lower(), set()).update(requirement.extras)
    return asked


@pytest.mark.once
@ANY_PACKAGE
def test_a_package_says_what_it_is(folder):
    """Each field is there, and each file that one names; the description is a sentence."""
    project = PROJECTS[folder]

    assert set() == WANTED - set(project)
    assert [] == [name for name in (project["readme"], *project["license-files"]) if not (folder / name).is_file()]
    assert re.fullmatch(r"[A-Z].{20,}\.", project["description"])
    assert [path.parent.name for path in folder.glob("src/*/py.typed")] == [project["name"].replace("-", "_")]


@pytest.mark.once
@ANY_PACKAGE
def test_packages_say_the_same_of_pythons_and_systems(folder):
    """What the core runs on, each plugin does."""
    project = PROJECTS[folder]

    assert [CORE["requires-python"], CORE["classifiers"]] == [project["requires-python"], project["classifiers"]]


@pytest.mark.once
def test_no_keyword_is_an_invitation_to_the_wrong_plugin():
    """A keyword is what somebody might write as a scheme, so it belongs to one plugin; one of two words is none."""
    words = [word for project in PLUGINS.values() for word in project["keywords"] if " " not in word]

    assert sorted(set(words)) == sorted(words)
    assert "postbus" not in words


@pytest.mark.once
def test_every_extra_is_of_something_that_there_is():
    """What begins as our own packages do is one of them, with the extras that it has."""
    known = {name: set(project.get("optional-dependencies", {})) for name, project in PLUGINS.items()}
    known["postbus"] = set(CORE["optional-dependencies"])
    asked = extras_of(line for lines in CORE["optional-dependencies"].values() for line in lines)
    ours = {name: extras for name, extras in asked.items() if name.startswith("postbus")}

    assert {} == {
        name: extras for name, extras in ours.items() if extras - known.get(name, {"it is not there"} - extras)
    }
    assert set() == ours.keys() - known.keys()


@pytest.mark.once
def test_every_plugin_has_an_extra():
    """Of its own name: so ``pip install "postbus[redis]"`` is all that anybody need remember."""
    extras = CORE["optional-dependencies"]

    assert [] == [name for name in PLUGINS if name not in extras_of(extras.get(name.removeprefix("postbus-"), []))]


@pytest.mark.once
def test_all_is_everything_but_what_is_for_development():
    """Each plugin, with what its own extras bring, and what the core's others do."""
    extras = CORE["optional-dependencies"]
    asked = extras_of(extras["all"])
    others = {name for name, lines in extras.items() if not any(line.startswith("postbus") for line in lines)}

    assert asked.pop("postbus") == others - FOR_DEVELOPMENT
    assert set(PLUGINS) == set(asked)
    for name, chosen in asked.items():
        optional = PLUGINS[name].get("optional-dependencies", {})
        brought = [set(optional[extra]) for extra in chosen]
        assert [] == [extra for extra, lines in optional.items() if set(lines) not in brought], name
