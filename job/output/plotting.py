"""matplotlib as the job uses it: no window, no log lines, no leftover files.

    from job.output.plotting import plt

    figure, axes = plt.subplots()

By default it writes a list of fonts to the home directory or, if there is none
as in a container, to a new folder in /tmp that is never deleted. Here the list
is deleted after the import, unless MPLCONFIGDIR names a folder for it.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

# It would log where it stores the list of fonts.
logging.getLogger("matplotlib").setLevel(logging.ERROR)


@contextlib.contextmanager
def _list_of_fonts() -> Iterator[None]:
    """Sets matplotlib's configuration folder during its import."""
    if os.environ.get("MPLCONFIGDIR"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="job-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


with _list_of_fonts():
    import matplotlib

    matplotlib.use("agg")

    from matplotlib import pyplot as plt
    from matplotlib import ticker
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Axes", "Figure", "matplotlib", "plt", "ticker"]
