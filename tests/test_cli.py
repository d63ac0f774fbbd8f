"""The command line: what it runs, what it refuses and in which words, what it publishes, and its exit statuses."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import NamedTuple

import pytest

from runtime.cli import main

from .bench.command import command
from .bench.process import free_port
from .bench.servers import RedisServer
from .bench.waiting import until

ROUTER = """
from runtime import Router, current_run

router = Router()

@router.task
async def leave():
    current_run().stop("nothing to do")
"""

RUNTIME = """
from adapters.memory import MemoryBroker
from runtime import Runtime, current_run

broker = MemoryBroker()
app = Runtime(broker)

@broker.task
async def leave():
    current_run().stop("nothing to do")
"""

STUCK = """
import trio
from runtime import Router, current_run

router = Router()

@router.task
async def feed():
    await router.publish("", "work")
    await trio.sleep_forever()

@router.subscriber("work")
async def handle(body: str) -> None:
    current_run().stop("begun")
    await trio.sleep(60)
"""


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


class CommandLine:
    """`runtime …` in this process, in a working directory of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def write(self, **modules: str) -> None:
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    def __call__(self, *words: str) -> Outcome:
        self._capsys.readouterr()
        status = main(words)
        return Outcome(status, *self._capsys.readouterr())


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    """Puts back what a command line changes for good: the path, the imported modules, where logs go."""
    monkeypatch.chdir(tmp_path)
    path, modules = sys.path[:], set(sys.modules)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield CommandLine(tmp_path, capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        # What a test wrote; the runtime's own modules stay what other tests hold on to.
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def assert_refused(outcome: Outcome, sentence: str) -> None:
    """Status 2, and one line that says why."""
    assert outcome.status == 2, outcome
    assert outcome.err.startswith("runtime: "), outcome
    assert outcome.err.count("\n") == 1, outcome
    assert sentence in outcome.err
    assert outcome.out == ""


# ---- runtime run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["routers"],
        ["routers:router"],
        ["runtimes"],
        ["runtimes:app"],
        ["routers", "--broker", "memory://"],
        ["routers", "more_routers"],
    ],
    ids=" ".join,
)
def test_run_serves_what_it_finds_and_ends_with_0(cli: CommandLine, words: list[str]) -> None:
    cli.write(routers=ROUTER, more_routers=ROUTER, runtimes=RUNTIME)
    outcome = cli("run", *words)
    assert outcome.status == 0, outcome
    assert "serving memory at memory://" in outcome.err
    assert "stopping: nothing to do" in outcome.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "there is no module nowhere here"),
        (["nowhere.handlers"], "there is no module nowhere here"),
        (["routers.handlers"], "there is no module routers.handlers here"),
        (["routers", "nowhere"], "there is no module nowhere here"),
        (["x/y.py"], "'x/y.py' is not a module name: write it with dots, like x.y"),
        (["./routers"], "'./routers' is not a module name: write it with dots, like routers"),
        ([""], "'' is not a module name: write it with dots, like package.module"),
        ([":router"], "'' is not a module name"),
        (["routers:nothing"], "module routers has no 'nothing'"),
        (["routers:leave"], "routers:leave is a function: only a Runtime or a Router can be run"),
        (["empty"], "empty holds no Runtime and no Router: there is nothing to run"),
        (["two"], "two hold 2 Runtimes, and one can be run: name it as MODULE:ATTR"),
        (["two:one", "two:other"], "hold 2 Runtimes"),
        (["runtimes", "routers"], "hold a Runtime and routers that it does not include"),
        (["runtimes", "--broker", "memory://"], "has a Runtime with brokers of its own, so --broker has no place"),
        (["runtimes:app", "--broker", "redis://h"], "has a Runtime with brokers of its own, so --broker has no place"),
        (["routers", "--broker", "carrier-pigeon://loft"], "'carrier-pigeon://loft' is not a broker URL"),
        (["routers", "--broker", "localhost:6379"], "'localhost:6379' is not a broker URL: it must begin with one of"),
        (["routers", "--broker", "memory://somewhere"], "it has only memory://"),
        (["routers", "--broker"], "argument --broker: expected one argument (see: runtime run --help)"),
        (["routers", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["routers", "--grace", "soon"], "'soon' is not a number of seconds from 0 up"),
        (["routers", "--grace", "-1"], "'-1' is not a number of seconds from 0 up"),
        (["routers", "--grace", "inf"], "'inf' is not a number of seconds from 0 up"),
        (["routers", "--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["misdeclared"], "handler misdeclared.broken has no parameter for the body"),
        ([], "the following arguments are required: MODULE[:ATTR]"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_run_refuses_what_should_be_written_differently_in_one_sentence(
    cli: CommandLine, words: list[str], sentence: str
) -> None:
    two = "from adapters.memory import MemoryBroker as M\nfrom runtime import Runtime as R\none, other = R(M()), R(M())"
    misdeclared = f"{ROUTER}\n@router.subscriber('x')\nasync def broken() -> None: ..."
    cli.write(routers=ROUTER, runtimes=RUNTIME, empty="", two=two, misdeclared=misdeclared)
    assert_refused(cli("run", *words), sentence)


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["--frobnicate"]], ids=str)
def test_no_command_or_a_wrong_one_is_refused_in_one_sentence(cli: CommandLine, words: list[str]) -> None:
    assert_refused(cli(*words), "(see: runtime --help)")


@pytest.mark.parametrize(
    ("text", "last_line"),
    [
        ("def broken(:\n    pass\n", "SyntaxError: invalid syntax"),
        ("raise ValueError('no database')\n", "ValueError: no database"),
        ("import not_installed_anywhere\n", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    ],
    ids=["a syntax error", "an exception", "a missing import", "an exit"],
)
def test_failure_of_the_users_own_code_at_import_is_status_1_with_its_traceback(
    cli: CommandLine, text: str, last_line: str
) -> None:
    cli.write(broken=text)
    outcome = cli("run", "broken")
    assert outcome.status == 1, outcome
    assert "broken.py" in outcome.err
    assert outcome.err.rstrip().splitlines()[-1] == last_line


def test_crash_of_a_users_task_is_status_1_with_its_traceback(cli: CommandLine) -> None:
    cli.write(
        crash="from runtime import Router\nr = Router()\n@r.task\nasync def crash():\n    raise ValueError('it broke')\n"
    )
    outcome = cli("run", "crash")
    assert outcome.status == 1, outcome
    assert "ValueError: it broke" in outcome.err
    assert "crash.py" in outcome.err


CLASHES = {
    "a folder adapters": ("adapters/db.py", "from adapters.db import x", "folder 'adapters'"),
    "a package adapters": ("adapters/__init__.py", "from adapters.db import x", "folder 'adapters'"),
    "a file adapters.py": ("adapters.py", "from adapters import x", "file 'adapters.py'"),
    "a folder runtime": ("runtime/db.py", "from runtime.db import x", "folder 'runtime'"),
    "a file runtime.py": ("runtime.py", "from runtime import x", "file 'runtime.py'"),
}


@pytest.mark.parametrize(("path", "text", "what"), CLASHES.values(), ids=CLASHES)
def test_users_own_module_by_the_name_of_one_of_ours_is_refused_in_one_sentence(
    cli: CommandLine, path: str, text: str, what: str
) -> None:
    (cli.folder / path).parent.mkdir(exist_ok=True)
    (cli.folder / path).write_text("x = 1\n")
    cli.write(handlers=text)
    assert_refused(
        cli("run", "handlers"),
        f"importing handlers needs your own {what}, but that name belongs to the runtime: rename yours",
    )


def test_users_own_package_by_the_name_of_ours_shadows_nothing_although_python_m_puts_it_first(tmp_path: Path) -> None:
    def run(module: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "handlers.py").write_text(module)
        words = [sys.executable, "-m", "runtime", "run", "handlers"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)

    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "__init__.py").write_text("x = 1\n")
    harmless = run(ROUTER)
    assert harmless.returncode == 0, harmless.stderr
    needed = run("from adapters import x")
    assert_refused(Outcome(needed.returncode, needed.stdout, needed.stderr), "your own folder 'adapters'")


def test_grace_on_the_command_line_is_what_handlers_have(cli: CommandLine) -> None:
    cli.write(stuck=STUCK)
    began = time.monotonic()
    outcome = cli("run", "stuck", "--grace", "0.2")
    assert outcome.status == 3, outcome
    assert 0.2 <= time.monotonic() - began < 2
    assert "the grace of 0.2 s is over; cancelling stuck.handle" in outcome.err


def test_grace_of_nothing_cancels_at_once(cli: CommandLine) -> None:
    cli.write(stuck=STUCK)
    began = time.monotonic()
    assert cli("run", "stuck", "--grace", "0").status == 3
    assert time.monotonic() - began < 1.5


def test_log_level_is_the_least_that_is_logged(cli: CommandLine) -> None:
    cli.write(routers=ROUTER)
    assert cli("run", "routers", "--log-level", "warning").err == ""
    assert " INFO " in cli("run", "routers").err
    assert " INFO " in cli("run", "routers", "--log-level", "debug").err


def test_json_logs_are_one_object_a_line(cli: CommandLine) -> None:
    cli.write(routers=ROUTER)
    lines = [json.loads(line) for line in cli("run", "routers", "--log-format", "json").err.splitlines()]
    assert {
        "level": "info",
        "logger": "runtime",
        "message": "stopping: nothing to do; handlers have 30 s to finish",
    } in [{name: value for name, value in line.items() if name != "time"} for line in lines]


# ---- runtime publish -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["s", "b"], "the following arguments are required: --broker"),
        (["s", "--broker", "redis://h"], "one of the arguments BODY|- --file is required"),
        (["s", "b", "--broker", "memory://"], "memory:// lives inside one process"),
        (["s", "b", "--broker", "carrier-pigeon://loft"], "'carrier-pigeon://loft' is not a broker URL"),
        (["s", "b", "--broker", "redis://"], "names no host"),
        (["s", "b", "--broker", "redis://h:port"], "is no port"),
        (["", "b", "--broker", "redis://h"], "name of a Stream is ''"),
        (["s", "b", "--broker", "redis://h", "--header", "tenant"], "'tenant' is not of the form K=V"),
        (["s", "b", "--broker", "redis://h", "--header", "=acme"], "'=acme' is not of the form K=V"),
        (["s\udcff", "b", "--broker", "redis://h"], "is not UTF-8"),
        (["s", "b", "--broker", "redis://h", "--key", "\udcff"], "is not UTF-8"),
        (["s", "b", "--broker", "redis://h", "--header", "k=\udcff"], "is not UTF-8"),
        (["s", "--file", "nowhere.ndjson", "--broker", "redis://h"], "cannot read 'nowhere.ndjson'"),
        (["s", "--file", ".", "--broker", "redis://h"], "cannot read '.'"),
    ],
    ids=lambda value: ascii(" ".join(value)) if isinstance(value, list) else "",
)
def test_publish_refuses_what_should_be_written_differently_in_one_sentence(
    cli: CommandLine, words: list[str], sentence: str
) -> None:
    assert_refused(cli("publish", *words), sentence)


def publish(*words: str) -> list[str]:
    return [sys.executable, "-m", "runtime", "publish", *words]


def impatient(*words: str) -> list[str]:
    """`runtime publish` whose broker waits for half a second and not for thirty: the command has no option for it."""
    script = """
import sys
import adapters.redis
from runtime.cli import main
from runtime.cli.loading import ADAPTERS

class Impatient(adapters.redis.RedisBroker):
    def __init__(self, url):
        super().__init__(url, publish_limit=0.5)

adapters.redis.RedisBroker = Impatient
sys.exit(main(["publish", *sys.argv[1:]]))
"""
    return [sys.executable, "-c", script, *words]


@pytest.mark.broker
async def test_publish_sends_the_body_with_its_key_and_headers_and_counts_what_was_confirmed(
    redis_process: RedisServer, tmp_path: Path
) -> None:
    words = ['{"id": 1}', "--key", "ada", "--header", "tenant=acme", "--header", "filter=a=b", "--header", "empty="]
    async with command(*publish("orders", *words, "--broker", redis_process.url), folder=tmp_path) as running:
        status, _ = await running.ends(within=15)
    assert (status, running.output) == (0, "published 1 message to orders\n")
    with redis_process.client() as client:
        ((_, fields),) = client.xrange("orders")
    assert {name: value for name, value in fields.items() if name not in (b"_id", b"_time")} == {
        b"body": b'{"id": 1}',
        b"_key": b"ada",
        b"_type": b"application/json",
        b"tenant": b"acme",
        b"filter": b"a=b",
        b"empty": b"",
    }
    assert len(fields[b"_id"]) == 32


@pytest.mark.broker
@pytest.mark.parametrize("source", ["-", "--file"])
async def test_lines_are_published_in_their_order_each_a_message(
    redis_process: RedisServer, tmp_path: Path, source: str
) -> None:
    lines = [f"line {number}" for number in range(10_000)]
    path = tmp_path / "lines"
    # Blank lines are no messages, a line's end may be Windows', and the last may have none.
    path.write_bytes(b"\n\n" + "\r\n".join(lines).encode())
    words = ["-"] if source == "-" else ["--file", str(path)]
    with path.open("rb") as stdin:
        whole = [*publish("lines", *words, "--broker", redis_process.url)]
        async with command(*whole, folder=tmp_path, stdin=stdin) as running:
            status, _ = await running.ends(within=30)
    assert (status, running.output) == (0, "published 10000 messages to lines\n")
    with redis_process.client() as client:
        assert [fields[b"body"].decode() for _, fields in client.xrange("lines")] == lines


@pytest.mark.broker
async def test_nothing_to_publish_is_nothing_published(redis_process: RedisServer, tmp_path: Path) -> None:
    async with command(*publish("s", "-", "--broker", redis_process.url), folder=tmp_path) as running:
        status, _ = await running.ends(within=15)
    assert (status, running.output) == (0, "published 0 messages to s\n")


@pytest.mark.broker
async def test_what_the_broker_refuses_is_status_1_with_the_brokers_words(
    redis_process: RedisServer, tmp_path: Path
) -> None:
    with redis_process.client() as client:
        client.set("not-a-stream", "")
    async with command(*publish("not-a-stream", "b", "--broker", redis_process.url), folder=tmp_path) as running:
        status, _ = await running.ends(within=15)
    assert status == 1, running.output
    assert running.output.startswith("failed: published 0 messages to not-a-stream; then: Redis refused message ")
    assert "WRONGTYPE" in running.output
    assert running.output.count("\n") == 1


@pytest.mark.promise("P5")
async def test_server_that_cannot_be_reached_is_status_1_and_nothing_was_confirmed(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    async with command(*impatient("s", "b", "--broker", url), folder=tmp_path) as running:
        status, _ = await running.ends(within=10)
    assert status == 1, running.output
    failure = "failed: published 0 messages to s; then: broker 'redis' could not be reached within 0.5 s for message "
    assert failure in running.output
    assert "Traceback" not in running.output


@pytest.mark.broker
@pytest.mark.promise("P5")
async def test_server_that_dies_on_the_way_is_status_1_and_says_how_many_were_confirmed(
    redis_process: RedisServer, tmp_path: Path
) -> None:
    words = impatient("lines", "-", "--broker", redis_process.url)
    async with command(*words, folder=tmp_path, stdin=subprocess.PIPE) as running:
        assert running.process.stdin is not None
        await running.process.stdin.send_all(b"a line\n" * 100)
        with redis_process.client() as client:
            await until(lambda: client.xlen("lines") == 100)
        redis_process.kill()
        await running.process.stdin.send_all(b"one too many\n")
        status, _ = await running.ends(within=10)
    assert status == 1, running.output
    assert "failed: published 100 messages to lines; then: " in running.output
    assert "Traceback" not in running.output


@pytest.mark.broker
@pytest.mark.promise("P2")
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
async def test_signal_ends_a_publish_at_once_and_is_the_status(
    redis_process: RedisServer, tmp_path: Path, number: int
) -> None:
    words = publish("lines", "-", "--broker", redis_process.url)
    async with command(*words, folder=tmp_path, stdin=subprocess.PIPE) as running:
        assert running.process.stdin is not None
        await running.process.stdin.send_all(b"a line\n" * 3)
        with redis_process.client() as client:
            await until(lambda: client.xlen("lines") == 3)
        # It waits for a fourth line now, in a thread.
        running.process.send_signal(number)
        status, _ = await running.ends(within=3)
    assert status == 128 + number, running.output
    said = re.fullmatch(r"interrupted: published (\d) messages? to lines\n", running.output)
    # Redis may have the message a moment before its confirm is here.
    assert said is not None, running.output
    assert int(said[1]) <= 3


@pytest.mark.promise("P2")
async def test_signal_ends_a_publish_that_waits_for_its_server(tmp_path: Path) -> None:
    words = publish("s", "b", "--broker", f"redis://127.0.0.1:{free_port()}")
    async with command(*words, folder=tmp_path) as running:
        await running.says("cannot connect")
        running.signal(SIGINT)
        status, _ = await running.ends(within=3)
    assert status == 128 + SIGINT, running.output
    assert "interrupted: published 0 messages to s\n" in running.output
