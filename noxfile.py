"""Sessions: `nox -s demo` shows the whole method, `nox -s tests` runs the tests; each in an environment of its own."""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

PINS = ("-c", "constraints.txt")
# First and by itself, so that nothing else chooses another build of it.
TORCH = "torch==2.13.0"


def group(name: str) -> list[str]:
    """The packages of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name)


def install(session: nox.Session, *packages: str) -> None:
    session.install(*PINS, "--quiet", TORCH)
    session.install(*PINS, "--quiet", *packages)


@nox.session
def demo(session: nox.Session) -> None:
    """The whole method on this computer, from photographs to a report: nox -s demo."""
    install(session, ".[nano]")
    session.run("redaes", "run", "nano", "--output", "runs/nano", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests; `nox -s tests -- --slow` includes those that take long, other words go to pytest."""
    install(session, "-e", ".[data,editors,app,serve]", *group("test"))
    # A process on each core, each of which computes with one thread; `-- -n 0` for a single one.
    processes = ("--numprocesses=auto", "--maxprocesses=8")
    session.run("pytest", *processes, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def pyiqa(session: nox.Session) -> None:
    """NIMA over timm and the plug-in of pyiqa, which need torchvision: it stays out of the other sessions."""
    install(session, "-e", ".[data,baselines]", "-e", "plugins/redaes-pyiqa", *group("test"))
    session.run("pytest", "tests/scorers/test_nima.py", "plugins/redaes-pyiqa/tests", *session.posargs)


@nox.session
def ray(session: nox.Session) -> None:
    """The runner over a Ray cluster of several node processes, and its ledger on an S3 server; `-- --slow` as tests."""
    install(session, "-e", ".[data,editors]", *group("test"))
    # With a file of its own, see there; what the first line has installed satisfies it and stays.
    session.install("--quiet", "-c", "plugins/redaes-ray/constraints.txt", "-e", "plugins/redaes-ray", "moto[server]")
    session.run("pytest", "plugins/redaes-ray/tests", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """What only a GPU can show, on the first one; without a GPU all of it is skipped."""
    install(session, "-e", ".[data,editors,train]", *group("test"))
    session.run("pytest", "tests/gpu", *session.posargs)


@nox.session
def vllm(session: nox.Session) -> None:
    """The rollouts by vLLM itself, on a processor; 6 GB of packages, for torchvision wants torch's CUDA build."""
    # Three equals signs: the very build that torchvision's wheels are made for, not a local version of it.
    session.install("--quiet", "torch===2.13.0", "torchvision==0.28.0")
    session.install("--quiet", "--no-deps", "-r", "plugins/redaes-vllm/requirements-cpu.txt")
    session.install("--quiet", "--no-deps", "-e", ".", "-e", "plugins/redaes-vllm")
    session.run("pytest", "--slow", "plugins/redaes-vllm/tests/test_real_engine.py", *session.posargs)


@nox.session
def sweeps(session: nox.Session) -> None:
    """The sweep files against W&B's own schema, whose package wants an older numpy than ours."""
    session.install("--quiet", "sweeps==0.3.0", "numpy<2", "pyyaml")
    session.run("python", "tests/sweeps/wandb_schema.py", "configs/sweeps")


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, and the direction of imports."""
    session.install(*PINS, "--quiet", *group("lint"))
    session.install("--quiet", "--no-deps", "-e", ".")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strictly, over src."""
    install(session, "-e", ".[data,serve]", *group("types"))
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, into site/; `nox -s docs -- serve` shows it."""
    session.install(*PINS, "--quiet", *group("docs"))
    session.install("--quiet", "--no-deps", "-e", ".")
    session.run("mkdocs", *(session.posargs or ("build", "--strict")))


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks: `nox -s bench -- NAME` runs benchmarks/NAME.py, without a name all of them."""
    install(session, ".[data,editors,serve]", *group("test"))
    names = session.posargs or sorted(path.stem for path in Path("benchmarks").glob("[a-z]*.py"))
    for name in names:
        session.run("python", f"benchmarks/{name}.py")
