"""`python -m runtime`: the same as the console script `runtime`."""

import sys

from .cli import main

sys.exit(main())
