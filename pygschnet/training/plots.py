"""Pictures of a run. They draw numbers and compute none."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pygschnet.files import replacing


def plot_learning_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]], units: dict[str, str], path: Path) -> None:
    """Draw quantities against the training step, one panel each, errors on a logarithmic scale.

    Args:
        curves: name → (steps, values).
        units: name → unit.
        path: of the PNG.
    """
    figure = Figure(figsize=(4.2 * len(curves), 3.4), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, (steps, values)) in zip(panels, curves.items(), strict=True):
        panel.plot(steps, values, marker="." if len(steps) < 50 else None, linewidth=1.2)
        if len(values) and min(values) > 0:
            panel.set_yscale("log")
        panel.set_title(name)
        panel.set_xlabel("training step")
        panel.set_ylabel(units[name])
        panel.grid(alpha=0.3, which="both")
    _write(figure, path)


def plot_parity(reference: np.ndarray, predicted: np.ndarray, quantity: str, unit: str, path: Path) -> None:
    """Draw predicted against reference values, and the distribution of the errors.

    Energies are shown relative to the mean reference energy.

    Args:
        reference: from the data.
        predicted: by the model.
        quantity: such as "energy".
        unit: of both.
        path: of the PNG.
    """
    errors = 1000 * (predicted - reference)
    origin = reference.mean() if quantity == "energy" else 0.0
    figure = Figure(figsize=(8.4, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(reference - origin, predicted - origin, ".", markersize=2, alpha=0.4, rasterized=True)
    ends = [reference.min() - origin, reference.max() - origin]
    left.plot(ends, ends, color="black", linewidth=0.8)
    relative = f" {'−' if origin > 0 else '+'} {abs(origin):.2f}" if origin else ""
    left.set_xlabel(f"reference {quantity}{relative} ({unit})")
    left.set_ylabel(f"predicted {quantity}{relative} ({unit})")
    left.set_title(f"{len(reference)} test values")
    right.hist(errors, bins=60, range=tuple(np.percentile(errors, [0.2, 99.8])))
    right.set_xlabel(f"error (m{unit})")
    right.set_ylabel("count")
    right.set_title(f"MAE {np.abs(errors).mean():.3g} m{unit}")
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        FigureCanvasAgg(figure).print_png(part)
