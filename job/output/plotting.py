"""matplotlib as the job uses it: no window, no words, nothing left behind.

    from job.output.plotting import plt

    figure, axes = plt.subplots()

Left to itself it writes a list of fonts into the home directory or, where there
is none as in a container, into a new folder of /tmp that stays when the job
ends. Here the list lives as long as the import does, unless MPLCONFIGDIR names
a place to keep it.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

# It would say where it keeps the list of fonts.
logging.getLogger("matplotlib").setLevel(logging.ERROR)


@contextlib.contextmanager
def _list_of_fonts() -> Iterator[None]:
    """Gives matplotlib a folder for as long as it looks for one."""
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
