"""Arguments → a command → an exit status."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import ConfigurationError
from . import logs, publish, run
from .loading import UsageError


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong option, not a screenful."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see: {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; 2 for anything that the caller should write differently."""
    try:
        options = _parser().parse_args(arguments)
        logs.configure(options.log_level, options.log_format)
        command: int = options.command(options)
        return command
    except (UsageError, ConfigurationError) as error:
        print(f"runtime: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="runtime", description="Serve modules of message handlers, and publish to them.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    serve = commands.add_parser(
        "run",
        parents=[_common("info")],
        help="serve modules of handlers until SIGTERM",
        description="Imports the modules from the working directory and serves the one Runtime they hold, or the "
        "routers they hold on --broker. The first SIGTERM, SIGINT or SIGHUP begins the drain, a second cuts it short. "
        "Exit status: 0 after a clean drain; 1 if the runtime failed; 2 for a bad module, attribute, URL or option; "
        "3 if handlers had to be cancelled at the end of the grace; 128+N if a second signal N cut the drain short.",
    )
    serve.add_argument("modules", nargs="+", metavar="MODULE[:ATTR]", help="a dotted module name, and what in it")
    serve.add_argument("--broker", metavar="URL", help="where to bind routers (memory://)")
    serve.add_argument(
        "--grace", type=_seconds, metavar="SECONDS", help="how long handlers may finish after a signal (30)"
    )
    serve.set_defaults(command=run.run)

    send = commands.add_parser(
        "publish",
        parents=[_common("warning")],
        help="publish one message, or one per line of standard input",
        description="Publishes and waits for the broker's confirm. Exit status: 0 if every message was confirmed; 1 if "
        "not, and then it says how many were; 2 for a bad URL or option; 128+N if signal N ended it.",
    )
    send.add_argument("destination", type=_text, metavar="DESTINATION", help="a stream, queue or topic")
    bodies = send.add_mutually_exclusive_group(required=True)
    bodies.add_argument("body", nargs="?", metavar="BODY|-", help="the body, or - for one per line of standard input")
    bodies.add_argument("--file", metavar="F.ndjson", help="publish one message per line of a file")
    send.add_argument("--broker", required=True, metavar="URL")
    send.add_argument("--key", type=_text, metavar="K", help="what ordering and partitioning go by")
    send.add_argument(
        "--header", dest="headers", action="append", default=[], type=_header, metavar="K=V", help="may be repeated"
    )
    send.set_defaults(command=publish.publish)
    return parser


def _common(log_level: str) -> _Parser:
    """The options that every command has."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--log-level",
        choices=logs.LEVELS,
        default=log_level,
        metavar="LEVEL",
        help=f"{', '.join(logs.LEVELS)} ({log_level})",
    )
    common.add_argument(
        "--log-format", choices=logs.FORMATS, default="text", metavar="FORMAT", help="text, json (text)"
    )
    return common


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 up")
    return seconds


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8; only a body may be any bytes") from None
    return text


def _header(text: str) -> tuple[str, str]:
    name, equals, value = _text(text).partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form K=V")
    return name, value
