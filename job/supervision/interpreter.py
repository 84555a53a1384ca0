"""Python interpreter of the process: its packages, and its name in commands.

Imports only the standard library and works in any Python 3, so that a Python
without the packages gets a clear error.
"""

import importlib.util
import os
import sys

# Large packages that the job cannot start without. None of them is imported.
_PACKAGES = ("ml_collections", "tensorflow")


def require_packages() -> None:
    """Ends the process with exit code 2 if the packages are not installed."""
    if not all(importlib.util.find_spec(name) for name in _PACKAGES):
        sys.stderr.write(
            f"setup error: the packages are not installed in {sys.executable}."
            " Fix: use .venv/bin/python, which make setup creates\n"
        )
        sys.exit(2)


def command() -> str:
    """Returns the interpreter as typed in the current folder.

    An interpreter outside of the folder is `python`, which an active
    environment or an image provides.
    """
    prefix = os.path.join(os.getcwd(), "")
    if sys.executable and sys.executable.startswith(prefix):
        return sys.executable[len(prefix) :]
    return "python"
