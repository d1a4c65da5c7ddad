"""Stress of a model that has seen energies and forces only, against that of the reference: which sign and unit has it?

    python experiments/silicon/stress.py MODEL ../shared/data/pbc_mlearn/Si_test.npz

`virial_raw` is taken for VASP's: kbar, positive under compression, in the order xx, yy, zz, xy, yz, zx. A slope near 1
says that this is so.
"""

import sys

import numpy as np
from ase import Atoms, units

from pygschnet import Calculator

VOIGT = [0, 1, 2, 4, 5, 3]  # xx, yy, zz, yz, xz, xy in VASP's order


def main() -> None:
    calculator, (predicted, reference) = Calculator(sys.argv[1]), ([], [])
    with np.load(sys.argv[2]) as file:
        ends = np.cumsum(file["n_atoms"])
        for k, end in enumerate(ends):
            rows = slice(end - file["n_atoms"][k], end)
            atoms = Atoms(file["Z"][rows], file["R"][rows], cell=file["cell"][k], pbc=True)
            calculator.calculate(atoms, ["stress"])
            predicted.append(calculator.results["stress"])
            reference.append(-file["virial_raw"][k][VOIGT] * units.GPa / 10)
    x, y = np.array(reference), np.array(predicted)
    print(f"{len(ends)} structures, reference stress of {x.std() / units.GPa:.2f} GPa (standard deviation)")
    print(f"slope {(x * y).sum() / (x * x).sum():.3f}, correlation {np.corrcoef(x.ravel(), y.ravel())[0, 1]:.3f}")
    print(f"MAE {np.abs(x - y).mean() / units.GPa:.2f} GPa")


if __name__ == "__main__":
    main()
