"""The command line: `runtime run` and its sisters."""

from .main import main as main
