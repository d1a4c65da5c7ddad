"""Energy and temperature of a simulation."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pygschnet.files import replacing


def plot_simulation(rows: dict[str, np.ndarray], atoms: int, conserved: bool, path: Path) -> None:
    """Draw the energy per atom against its mean, and the temperature, over time.

    Args:
        rows: columns of the log.
        atoms: how many there are.
        conserved: whether the total energy should be constant.
        path: of the picture.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    time = rows["time_fs"] / 1000
    name, label = ("total_eV", "total energy") if conserved else ("potential_eV", "potential energy")
    energy = rows[name] / atoms * 1000
    above.plot(time, energy - energy.mean(), linewidth=0.8)
    above.set_ylabel(f"{label} − mean,\nmeV per atom")
    below.plot(time, rows["temperature_K"], linewidth=0.8, color="C1")
    below.set_ylabel("temperature, K")
    below.set_xlabel("time, ps")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.margins(x=0)
    with replacing(path) as part:
        FigureCanvasAgg(figure).print_png(part)
