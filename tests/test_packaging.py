"""What is installed and what is imported: no client library unless asked for, no I/O at import or declaration."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
import subprocess
import sys
from pathlib import Path

import pytest

CLIENTS = ("hiredis", "redis", "aio_pika", "pamqp", "confluent_kafka", "trio_asyncio")

#: Makes hiredis look like it is not installed.
WITHOUT_HIREDIS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hiredis":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""

HOW_TO_GET_IT = "adapters.redis needs hiredis, which comes with the redis extra: pip install 'trio-runtime[redis]'"


def fresh_interpreter(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=20, check=False
    )


@pytest.mark.parametrize("module", ["runtime", "runtime.cli", "runtime.testing", "adapters", "adapters.memory"])
def test_importing_the_core_imports_no_client_library(module: str, tmp_path: Path) -> None:
    script = f"import sys, {module}\nprint(*(name for name in {CLIENTS} if name in sys.modules))"
    done = fresh_interpreter(script, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_importing_the_runtime_imports_no_adapter(tmp_path: Path) -> None:
    script = "import sys, runtime, runtime.cli\nprint([name for name in sys.modules if name.startswith('adapters')])"
    done = fresh_interpreter(script, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_importing_the_runtime_does_not_import_the_test_kit(tmp_path: Path) -> None:
    done = fresh_interpreter("import sys, runtime, runtime.cli\nprint('runtime.testing' in sys.modules)", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_test_kit_needs_no_pytest(tmp_path: Path) -> None:
    without_pytest = WITHOUT_HIREDIS.replace('== "hiredis"', 'in ("pytest", "_pytest")')
    done = fresh_interpreter(f"{without_pytest}\nimport runtime.testing\nprint('pytest' in sys.modules)", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


@pytest.mark.promise("P4")
def test_declaring_touches_no_socket_and_no_name_server_and_starts_no_thread(tmp_path: Path) -> None:
    script = """
import sys, threading
from adapters.memory import MemoryBroker
from adapters.redis import RedisBroker, Stream
from runtime import Router, Runtime

seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(("socket.", "subprocess.")) else None)

redis, tls, memory = RedisBroker("redis://user:secret@broker.invalid"), RedisBroker("rediss://h"), MemoryBroker()
app = Runtime(redis, tls, memory)
router = Router()

@router.subscriber("orders")
async def by_router(body: dict) -> None: ...

@redis.subscriber(Stream("orders", group="billing"), concurrency=100)
@memory.publisher("done")
async def by_broker(body: dict) -> dict: ...

app.include(router, memory)
print(app.status().phase.value, seen, threading.active_count())

# The hook does hear what it listens for.
import socket
socket.getaddrinfo("127.0.0.1", 1, flags=socket.AI_NUMERICHOST)
print(seen)
"""
    done = fresh_interpreter(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "idle [] 1\n['socket.getaddrinfo']\n"


def test_adapter_without_its_extra_says_in_one_sentence_how_to_get_it(tmp_path: Path) -> None:
    done = fresh_interpreter(f"{WITHOUT_HIREDIS}\nimport adapters.redis", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {HOW_TO_GET_IT}"
    assert "During handling" not in done.stderr


@pytest.mark.parametrize("words", [["run", "handlers"], ["publish", "orders", "hello"]], ids=["run", "publish"])
def test_command_line_without_the_extra_says_how_to_get_it_with_status_2(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text("from runtime import Router\nrouter = Router()\n")
    arguments = [*words, "--broker", "redis://localhost"]
    done = fresh_interpreter(f"{WITHOUT_HIREDIS}\nfrom runtime.cli import main\nsys.exit(main({arguments}))", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"runtime: {HOW_TO_GET_IT}\n")


def test_core_works_without_any_extra(tmp_path: Path) -> None:
    script = """
import trio
from adapters.memory import MemoryBroker
from runtime import Runtime, current_run

broker = MemoryBroker()

@broker.subscriber("greetings")
async def greet(body: str) -> None:
    print(body)
    current_run().stop()

@broker.task
async def feed() -> None:
    await broker.publish("hello", "greetings")

raise SystemExit(Runtime(broker).run())
"""
    done = fresh_interpreter(WITHOUT_HIREDIS + script, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


@pytest.mark.parametrize("package", ["runtime", "adapters"])
def test_package_says_that_it_is_typed(package: str) -> None:
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_extras_are_one_for_each_broker_and_one_for_all() -> None:
    extras = importlib.metadata.metadata("trio-runtime").get_all("Provides-Extra") or []
    assert {"redis", "rabbitmq", "kafka", "all"} <= set(extras)
    needs: dict[str, set[str]] = {extra: set() for extra in extras}
    for requirement in importlib.metadata.requires("trio-runtime") or []:
        name, _, marker = requirement.partition(";")
        if found := re.search(r"extra == ['\"]([\w-]+)['\"]", marker):
            needs[found[1]].add(name.strip())
    assert needs["redis"]
    assert needs["redis"] | needs["rabbitmq"] | needs["kafka"] <= needs["all"]


def test_core_needs_trio_and_msgspec_and_nothing_else() -> None:
    core = [name for name in importlib.metadata.requires("trio-runtime") or [] if "extra ==" not in name]
    assert {re.split(r"\W", name)[0] for name in core} == {"trio", "msgspec"}


def test_console_script_is_the_command_line() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="runtime")
    assert script.value == "runtime.cli:main"
