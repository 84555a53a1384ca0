"""Import of matplotlib without windows and without log lines on its fonts.

    from job.output.plotting import plt

    figure, axes = plt.subplots()

The image sets MPLCONFIGDIR, because matplotlib writes a list of fonts to the
home directory.
"""

# ruff: noqa: E402
import logging

# The import logs the path of the list of fonts.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["Axes", "Figure", "matplotlib", "plt", "ticker"]
