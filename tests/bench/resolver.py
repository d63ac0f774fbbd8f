"""Name look-ups that hang in a process whose library asks the C library itself, and not Python: see `dns` for the others.

async with command(..., environment=slow_resolver(folder)) as running:
    await running.says("looking up broker.test")
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

#: Stands before the C library's own. A look-up of broker.test takes a minute, and finds nothing.
SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef int look_up(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    if (name && strcmp(name, "broker.test") == 0) {
        dprintf(1, "looking up %s\\n", name);
        sleep(60);
        return EAI_AGAIN;
    }
    look_up *real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(name, service, hints, found);
}
"""


def slow_resolver(folder: Path) -> dict[str, str]:
    """The environment of a process in which broker.test takes a minute to look up, which it says on its output."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NO SLOW RESOLVER: there is no C compiler called cc")
    (folder / "resolver.c").write_text(SOURCE)
    library = folder / "resolver.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "resolver.c", "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library)}
