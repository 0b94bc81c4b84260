"""Every task of this repository; `./run` starts them.

A package is a folder with a pyproject.toml: the core, and each folder in plugins/. Nothing here, and no
other file, lists the plugins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
CORE = Path("core")
PLUGINS = sorted(path.parent.relative_to(ROOT) for path in ROOT.glob("plugins/*/pyproject.toml"))
PACKAGES = [CORE, *PLUGINS]
PROJECTS = {folder: nox.project.load_toml(ROOT / folder / "pyproject.toml") for folder in (Path(), *PACKAGES)}

# Tests that start processes spend most of their time on imports, unless those are compiled.
ENV = {"PYTHONDONTWRITEBYTECODE": None}

# Tests mostly wait, so four processes keep two processors busy; each starts the brokers that its tests ask for, and one
# of them those that are heavy. What takes longest begins first. One that dies ends the run.
IN_PARALLEL = [
    *("--numprocesses=4", "--dist=loadscope", "--no-loadscope-reorder", "--max-worker-restart=0"),
    "--override-ini=testpaths=tests plugins/*/tests core/tests",
    *("--durations=30", "--durations-min=5"),
]

nox.needs_version = ">=2026.1"
nox.options.sessions = ["unit", "lint", "types"]
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"


def name_of(package: Path) -> str:
    """Return the distribution's name: ``postbus-sql``."""
    return PROJECTS[package]["project"]["name"]


def module_of(package: Path) -> str:
    """Return the name that the package is imported by: ``postbus_sql``."""
    return name_of(package).replace("-", "_")


def found_pythons() -> list[str]:
    """Return the supported versions of Python that are here, and the oldest one in any case.

    On a contributor's machine a missing one is skipped; where the variable ``CI`` is set, it is an error.
    """
    oldest, *newer = nox.project.python_versions(PROJECTS[CORE])

    # A shim of pyenv starts only the versions that are selected; the interpreters themselves are here.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [str(folder) for version in (oldest, *newer) for folder in pyenv.glob(f"versions/{version}*/bin")]
    os.environ["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])
    return [oldest, *filter(starts, newer)]


def starts(version: str) -> bool:
    """Tell whether a Python of this version is on the PATH and runs."""
    python = shutil.which(f"python{version}")
    return python is not None and subprocess.run([python, "--version"], capture_output=True).returncode == 0


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group, of the root and of every package that has one of that name."""
    return [
        requirement
        for project in PROJECTS.values()
        if name in project.get("dependency-groups", {})
        for requirement in nox.project.dependency_groups(project, name)
    ]


def install(session: nox.Session, *requirements: str) -> None:
    """Install requirements, in the versions that constraints.txt pins."""
    session.install("--constraint", "constraints.txt", *requirements)


def install_everything(session: nox.Session, *requirements: str) -> None:
    """Install all packages, editable and with what their optional parts need, and further requirements."""
    plugins = [argument for folder in PLUGINS for argument in ("--editable", str(folder))]
    install(session, "--editable", "core[pydantic,testing]", *plugins, *requirements)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the newsletter example, whole."""
    requirements = Path("examples/newsletter/requirements.txt")
    install(session, "--editable", "core", "--editable", "plugins/sql", "--requirement", str(requirements))
    session.run("python", "examples/newsletter/demo.py", *session.posargs)


PYTHONS = found_pythons()


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run all tests of all packages on the oldest Python that is found, and on the others what may differ there."""
    install_everything(session, *group("tests"))
    marked: list[str] = []
    if session.python != PYTHONS[0]:
        # What brokers do is seen on the oldest and the newest, and is the same between them.
        marked = ["-m", "not once" if session.python == PYTHONS[-1] else "not once and not broker"]
    session.run("pytest", *IN_PARALLEL, *marked, *session.posargs, env=ENV)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill many workers and break every broker, for long; "-- --help" shows what can be asked for."""
    install_everything(session, *group("tests"))
    session.run("python", "-m", "tests.faults", *session.posargs, env=ENV)


@nox.session
def unit(session: nox.Session) -> None:
    """Run the tests that need no broker and take seconds."""
    install_everything(session, *group("tests"))
    session.run("pytest", "-m", "not slow and not broker", *session.posargs, env=ENV)


# What the tasks need in a newer Debian, and the one that runs there, on its own Python, whatever needs a broker.
NEEDED = "git,procps,python3,python3-venv"
ON_BROKERS = ("tests-3.13", "--", "-m", "broker", "--override-ini=testpaths=plugins/*/tests tests/brokers")
ON_SYMFONY = ("tests-3.13", "--", "-m", "slow", "--override-ini=testpaths=tests/symfony")
REQUIRED = {"POSTBUS_REQUIRE_BROKERS": "1"}
SERVERS = "beanstalkd,mariadb-server,pgbouncer,postgresql,rabbitmq-server,redis-server"
VALKEY = {"POSTBUS_TEST_REDIS_PROGRAM": "valkey-server"}


@nox.session
@nox.parametrize(
    ("suite", "packages", "task", "environment"),
    [
        nox.param("forky", NEEDED, ("unit", "--"), {}, id="python"),
        nox.param("trixie", f"{NEEDED},{SERVERS}", ON_BROKERS, {}, id="brokers"),
        nox.param("trixie", f"{NEEDED},{SERVERS}", ON_SYMFONY, {}, id="symfony"),
        nox.param("trixie", f"{NEEDED},valkey-server", (*ON_BROKERS, "-k", "redis"), VALKEY, id="valkey"),
    ],
)
def newest(session: nox.Session, suite: str, packages: str, task: tuple[str, ...], environment: dict[str, str]) -> None:
    """Run tests in newer Debians: on Python 3.14, and on the brokers and the Symfony of Debian 13. Takes root there."""
    install(session, *group("tests"))
    debian = ("python", "-m", "tests.brokers.newest", suite, packages, "--")
    session.run(*debian, "python3", "-m", "venv", "/opt/nox")
    session.run(*debian, "/opt/nox/bin/pip", "install", "--quiet", "--constraint", "constraints.txt", "nox", "uv")
    nox_there = (*debian, "/opt/nox/bin/nox", "--envdir", f".nox/{suite}", "--session")
    session.run(*nox_there, *task, *session.posargs, env=ENV | REQUIRED | environment)


@nox.session
def brokers(session: nox.Session) -> None:
    """Start the brokers of the tests, say where they are, and keep them until Ctrl-C."""
    install_everything(session, *group("tests"))
    session.run("python", "-m", "tests.brokers", env=ENV)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the format, the code, who imports whom, and that every dependency is declared."""
    install_everything(session, *group("lint"))
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    # Without the cache: shared by two runs over different packages, it shows the second one old imports.
    session.run("lint-imports", "--no-logo", "--no-cache")
    session.run("lint-imports", "--no-logo", "--no-cache", "--config", str(contracts_between_packages(session)))
    for package in PACKAGES:
        # What an extra brings is for the user; the code need not import it.
        unused = "|".join(extras_of(package))
        with session.chdir(package):
            session.run("deptry", "src", "--no-ansi", "--per-rule-ignores", f"DEP002={unused}")


def extras_of(package: Path) -> list[str]:
    """Return the names of the distributions that the package's extras ask for."""
    extras = PROJECTS[package]["project"].get("optional-dependencies", {})
    return sorted({Requirement(line).name for lines in extras.values() for line in lines})


def contracts_between_packages(session: nox.Session) -> Path:
    """Write the import contracts that concern all packages into a file, and return it.

    import-linter wants every package named. They are named from the folders, so that a new plugin is held
    to these contracts without being entered in a list.
    """
    plugins = [module_of(plugin) for plugin in PLUGINS]
    config = Path(session.create_tmp(), "importlinter.toml")
    config.write_text(
        f"""
        [tool.importlinter]
        root_packages = {["postbus", *plugins]}

        [[tool.importlinter.contracts]]
        name = "The core knows no plugin"
        type = "forbidden"
        source_modules = ["postbus"]
        forbidden_modules = {plugins}

        [[tool.importlinter.contracts]]
        name = "No plugin knows another"
        type = "independence"
        modules = {plugins}

        [[tool.importlinter.contracts]]
        name = "No import cycles in a plugin"
        type = "acyclic_siblings"
        ancestors = {plugins}
        """
    )
    return config


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of every package, and of how its public names are used, with two checkers."""
    install_everything(session, *group("types"))
    session.run("mypy")
    session.run("pyright")
    session.run("python", "tests/typing/revealed.py", "tests/typing/public_api.py")


@nox.session
def build(session: nox.Session) -> None:
    """Build a wheel of each package, in dist/."""
    install(session, *group("build"))
    for wheel in Path("dist").glob("*.whl"):
        wheel.unlink()
    for package in PACKAGES:
        session.run("python", "-m", "build", "--no-isolation", "--wheel", "--outdir", "dist", str(package))


@nox.session(reuse_venv=False, requires=["build"])
@nox.parametrize("package", PACKAGES, ids=map(name_of, PACKAGES))
def wheels(session: nox.Session, package: Path) -> None:
    """Install each wheel alone into a fresh environment, import and use it."""
    install(session, *(wheel_of(folder) for folder in dict.fromkeys([CORE, package])))
    session.run("python", "-I", "tests/packages/use_installed.py", name_of(package))
    if package == CORE:
        install(session, f"{wheel_of(CORE)}[testing]")
        session.run("python", "-I", "-c", "import postbus.testing")
    if name_of(package) == "postbus-sql":
        session.run("python", "-I", "tests/packages/run_readme.py")


def wheel_of(package: Path) -> str:
    """Return the path of the wheel that the session `build` made."""
    [wheel] = Path("dist").glob(f"{module_of(package)}-*.whl")
    return str(wheel)


@nox.session
def release(session: nox.Session) -> None:
    """Rehearse a release: build all twice, look at it as an index would, and install it from one as users do."""
    install(session, *group("release"))
    with TemporaryDirectory() as folder:
        copy, once, again = (Path(folder, name) for name in ("copy", "once", "again"))
        for package in PACKAGES:
            # At other times, in another place: nothing of that may be in what is built.
            shutil.copytree(ROOT / package, copy / package, copy_function=shutil.copyfile)
        shutil.copy(ROOT / ".gitignore", copy)
        build = ("python", "-m", "build", "--no-isolation", "--outdir")
        for package in PACKAGES:
            # One wheel is made of the source distribution, the other one of the folder: so nothing lacks in the former.
            session.run(*build, str(once), str(package), silent=True)
            session.run(*build, str(again), "--sdist", "--wheel", str(copy / package), silent=True)
        files = sorted(once.iterdir())
        assert len(files) == 2 * len(PACKAGES), files
        for file in files:
            assert file.read_bytes() == (again / file.name).read_bytes(), f"{file.name} is another one each time."
        session.log(f"Built {len(files)} files twice, with the same bytes.")
        session.run("twine", "check", "--strict", *map(str, files))
        session.run("python", "-m", "tests.packages.rehearse", str(once))


PLAIN = {"name": "Carrier", "license": "MIT"}
CLIENT = {"name": "Great Carrier 2", "scheme": "gc-2", "client": "greenstalk>=2,<3", "license": "Apache-2.0"}
TEMPLATE_PARTS = ["answers", "plain", "client", "update"]


@nox.session(reuse_venv=False)
@nox.parametrize("part", TEMPLATE_PARTS, ids=TEMPLATE_PARTS)
def template(session: nox.Session, part: str) -> None:
    """Render the template for authors of plugins, and do with what comes of it what they would do."""
    install(session, *group("template"))
    with TemporaryDirectory() as folder:
        match part:
            case "answers":
                render_with_every_answer(session, Path(folder))
            case "plain":
                use_rendered(session, PLAIN, Path(folder))
            case "client":
                use_rendered(session, CLIENT, Path(folder))
            case _:
                update_rendered(session, Path(folder))


def render_with_every_answer(session: nox.Session, folder: Path) -> None:
    """Render it with every combination of answers, and check of each what can be checked without installing it."""
    session.run("python", "tests/packages/render_all.py", "plugin-template", str(folder))
    session.run("python", "-m", "compileall", "-q", str(folder))
    with session.chdir(folder):
        # With the configuration that lies in each.
        session.run("ruff", "format", "--check", "--quiet", ".")
        session.run("ruff", "check", "--quiet", ".")


def update_rendered(session: nox.Session, folder: Path) -> None:
    """Render a version of the template, change what an author would, and bring the next version to that.

    The versions are those of a repository which is made for this: of the template as it is, and, before it, of one
    that lacked a test and said something in other words. No release has a template yet that could be updated.
    """
    git = ("git", "-c", "user.name=Ada Lovelace", "-c", "user.email=ada@example.com")
    repository, rendered = folder / "postbus", folder / "postbus-carrier"

    def release(version: str) -> None:
        for command in (("add", "--all"), ("commit", "--quiet", "--message", version), ("tag", version)):
            session.run(*git, "-C", str(repository), *command, external=True)

    session.run("git", "init", "--quiet", str(repository), external=True)
    shutil.copy(ROOT / "copier.yml", repository)
    for version in ("0.1.0", "0.2.0"):
        template = repository / "plugin-template"
        shutil.copytree(ROOT / "plugin-template", template, dirs_exist_ok=True)
        if version == "0.1.0":
            (template / "template/tests/test_dsns.py.jinja").unlink()
            rewrite(template / "template/src/{{ module }}/options.py.jinja", "two looks for a message", "two looks")
        release(version)
    render(session, PLAIN, rendered, str(repository), "--vcs-ref=0.1.0")

    options = rendered / "src/postbus_carrier/options.py"
    assert "two looks." in options.read_text()
    (rendered / "tests/test_folder.py").unlink()
    rewrite(options, "60.0", "30.0")
    with session.chdir(rendered):
        for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "Mine")):
            session.run(*git, *command, external=True)
        session.run("copier", "update", "--quiet", "--defaults")
        changes = str(session.run("git", "status", "--porcelain", external=True, silent=True)).splitlines()

    # It has what is new beside what is the author's, and nothing else has changed.
    wanted = [" M .copier-answers.yml", " M src/postbus_carrier/options.py", "?? tests/test_dsns.py"]
    assert sorted(changes) == wanted, changes
    assert "30.0" in options.read_text(), options.read_text()
    assert "two looks for a message." in options.read_text(), options.read_text()
    assert "_commit: 0.2.0" in (rendered / ".copier-answers.yml").read_text()


def rewrite(path: Path, old: str, new: str) -> None:
    """Write something else into a file, where something is."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} has no {old!r}."
    path.write_text(text.replace(old, new), encoding="utf-8")


def render(session: nox.Session, answers: Mapping[str, str], rendered: Path, *source: str) -> None:
    """Render the template into a folder, from this folder or from another source."""
    told = [f"--data={name}={answer}" for name, answer in {"author": "Ada Lovelace", **answers}.items()]
    source = source or ("plugin-template",)
    session.run("copier", "copy", "--quiet", "--defaults", *told, *source[1:], source[0], str(rendered))


def use_rendered(session: nox.Session, answers: Mapping[str, str], folder: Path) -> None:
    """Install what is rendered, from its wheel and the core's, and use it."""
    scheme = answers.get("scheme", answers["name"].lower())
    rendered, dist = folder / f"postbus-{scheme}", folder / "dist"
    render(session, answers, rendered)
    for package in (CORE, rendered):
        session.run("python", "-m", "build", "--no-isolation", "--wheel", "--outdir", str(dist), str(package))
    [core] = dist.glob("postbus-[0-9]*.whl")
    [plugin] = dist.glob(f"postbus_{scheme.replace('-', '_')}-*.whl")
    install(session, f"{core}[testing]", str(plugin))
    with session.chdir(rendered):
        use_installed(session, scheme, rendered)


def use_installed(session: nox.Session, scheme: str, rendered: Path) -> None:
    """Run all that a rendered distribution has been given, and send a message from one process to another with it."""
    assert f"{scheme}://" in str(session.run("postbus", "plugins", silent=True))
    tables = str(session.run("postbus", "plugins", scheme, "--format", "markdown", silent=True))
    assert tables.strip() in (rendered / "README.md").read_text(encoding="utf-8"), "Its README has other tables."
    session.run("sh", "-n", "run", external=True)
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")
    session.run("pytest", *session.posargs)

    shop = ROOT / "tests/packages/rendered"
    env = {"ORDERS_DSN": f"{scheme}://{rendered}/orders", "PYTHONPATH": str(shop)}
    session.run("python", str(shop / "shop.py"), env=env)
    consume = ("postbus", "--app", "shop:app", "consume", "orders", "--limit", "1", "--idle-limit", "60s")
    seen = session.run(*consume, silent=True, env=env)
    assert "Order 13 is confirmed." in str(seen), seen


@nox.session
def bench(session: nox.Session) -> None:
    """Measure how fast it is, beside the raw equivalent; with "-- peers", beside other libraries.

    With "-- --against REV", beside another revision.
    """
    install_everything(session, *group("tests"))  # Which starts the brokers, and has their clients.
    if "peers" in session.posargs:
        # Each by itself: one that cannot be installed says so in its row of the table.
        for line in Path("benchmarks/peers/requirements.txt").read_text().splitlines():
            if not line.startswith("#"):
                session.install("--constraint", "constraints.txt", line, success_codes=range(256))
    arguments = [*session.posargs]
    with ExitStack() as stack:
        if "--against" in arguments[:-1]:
            place = arguments.index("--against") + 1
            arguments[place] = stack.enter_context(another_revision(session, arguments[place]))
        session.run("python", "-m", "benchmarks", *arguments, env=ENV)


@contextmanager
def another_revision(session: nox.Session, revision: str) -> Generator[str]:
    """Check out another revision, and give the Python of an environment that its own noxfile makes, for benchmarks."""
    commit = str(session.run("git", "rev-parse", "--short", f"{revision}^{{commit}}", external=True, silent=True))
    with TemporaryDirectory() as folder:
        checkout = Path(folder, commit.strip())
        session.run("git", "worktree", "add", "--detach", "--quiet", str(checkout), revision, external=True)
        try:
            nox_there = (sys.executable, "-m", "nox", "--noxfile", str(checkout / "noxfile.py"))
            session.run(*nox_there, "--session", "bench", "--install-only", external=True)
            yield str(checkout / ".nox/bench/bin/python")
        finally:
            session.run("git", "worktree", "remove", "--force", str(checkout), external=True)


@nox.session
def tables(session: nox.Session) -> None:
    """Write the tables in the plugins' READMEs anew; with "-- redis", in that one."""
    install_everything(session)
    session.run("python", "-m", "tests.documentation.tables", *session.posargs)


@nox.session
def proven(session: nox.Session) -> None:
    """Run the contract on every broker, and write into docs/guarantees.md what held, on which versions."""
    install_everything(session, *group("tests"))
    told = {"POSTBUS_TEST_PROVEN": "docs/guarantees.md", "POSTBUS_TEST_KAFKA": "1"}
    session.run(
        "pytest", *IN_PARALLEL, "--override-ini=testpaths=plugins/*/tests", *session.posargs, env=ENV | REQUIRED | told
    )


@nox.session
def certify(session: nox.Session) -> None:
    """Have the plugins certified, which takes long, and write their levels into their READMEs; with "-- redis", one."""
    install_everything(session, *group("tests"), "mypy")
    session.run("python", "-m", "tests.documentation.levels", *session.posargs, env=ENV | REQUIRED)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, in build/docs, and do what its pages say; what follows "--" goes to pytest."""
    install_everything(session, *group("docs"))
    # All of it, as a page whose text is as it was may show docstrings that are not.
    every = ("--fresh-env", "--doctree-dir", session.create_tmp(), "--jobs", "auto")
    session.run("sphinx-build", "--conf-dir", "docs", *every, "--quiet", "--fail-on-warning", ".", "build/docs")
    session.run("pytest", "--numprocesses=2", "--dist=loadfile", "docs", *session.posargs, env=ENV)


@nox.session
def changelog(session: nox.Session) -> None:
    """Show what the next releases will say; with "-- postbus-sql", write it for that package."""
    install(session, *group("changelog"))
    for package in PACKAGES:
        name, version = name_of(package), PROJECTS[package]["project"]["version"]
        about = ("--dir", str(package), "--name", name, "--version", version)
        mode = "--yes" if name in session.posargs else "--draft"
        session.run("towncrier", "build", "--config", "pyproject.toml", *about, mode)


@nox.session
def constraints(session: nox.Session) -> None:
    """Pin anew, in constraints.txt, what the packages and these tasks need."""
    projects = [PROJECTS[package]["project"] for package in PACKAGES]
    extras = PROJECTS[CORE]["project"]["optional-dependencies"]
    wanted = [requirement for project in projects for requirement in project["dependencies"]]
    wanted += [*extras["pydantic"], *extras["testing"]]
    wanted += [requirement for name in PROJECTS[Path()]["dependency-groups"] for requirement in group(name)]

    listed = Path(session.create_tmp(), "wanted.in")
    listed.write_text("\n".join(line for line in wanted if not line.startswith("postbus")))
    options = ("--universal", "--python-version", "3.11", "--upgrade", "--no-annotate", "--no-header", "--quiet")
    session.run("uv", "pip", "compile", *options, "--output-file", "constraints.txt", str(listed))
