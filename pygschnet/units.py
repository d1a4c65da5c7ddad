"""Units. Inside the package: eV, Å, e, K and GHz; everything is converted once, when it is read.

The constants are ASE's (CODATA 2014).
"""

import re
from collections import Counter

from ase import units as ase_units

from pygschnet.errors import InputError

UNITS = {
    "energy": "eV",
    "forces": "eV/Å",
    "stress": "eV/Å³",
    "virial": "eV",
    "pos": "Å",
    "cell": "Å",
    "dipole": "e·Å",
    "charge": "e",
    "charges": "e",
    "rho": "Å²",
}
"""The unit of every property inside the package."""

_TABLE: dict[str, tuple[float, str]] = {
    # value inside the package; energy, length, charge Q, temperature, H for frequency, N for mol, P for E/L³
    "ev": (1.0, "E"),
    "mev": (1e-3, "E"),
    "ha": (ase_units.Hartree, "E"),
    "hartree": (ase_units.Hartree, "E"),
    "ry": (ase_units.Rydberg, "E"),
    "kcal": (ase_units.kcal / ase_units.mol, "EN"),
    "cal": (ase_units.kcal / ase_units.mol / 1000, "EN"),
    "kj": (ase_units.kJ / ase_units.mol, "EN"),
    "mol": (1.0, "N"),
    "å": (1.0, "L"),
    "a": (1.0, "L"),
    "ang": (1.0, "L"),
    "angstrom": (1.0, "L"),
    "bohr": (ase_units.Bohr, "L"),
    "a0": (ase_units.Bohr, "L"),
    "nm": (ase_units.nm, "L"),
    "pm": (ase_units.nm / 1000, "L"),
    "gpa": (ase_units.GPa, "P"),
    "kbar": (ase_units.GPa / 10, "P"),
    "e": (1.0, "Q"),
    "d": (ase_units.Debye, "QL"),
    "debye": (ase_units.Debye, "QL"),
    "k": (1.0, "T"),
    "ghz": (1.0, "H"),
    "1": (1.0, ""),
}
_INSIDE = {"E": "eV", "Q": "e", "L": "Å", "T": "K", "H": "GHz", "N": "mol"}
_POWERS = {2: "²", 3: "³"}


def unit_factor(unit: str, quantity: str | None = None) -> float:
    """One `unit` in the units of the package.

    Args:
        unit: a product such as "kcal/mol/Å", "Ha/Bohr", "e*Ang", "Debye" or "a0^3", in any case.
        quantity: a key of `UNITS` whose dimension the unit must have, such as "forces"; null to take any.

    Raises:
        InputError: for a unit that is not known, or of another dimension.
    """
    factor, dimension = _parse(unit)
    if quantity is not None and dimension != _parse(UNITS[quantity])[1]:
        raise InputError(f"{unit!r} is no unit of {quantity}: give one like {UNITS[quantity]}")
    return factor


def inside_unit(unit: str) -> str:
    """The unit that a quantity read in `unit` has inside the package: "eV/Å" for "kcal/mol/Bohr"."""
    dimension = _parse(unit)[1]
    above, below = (
        "·".join(f"{name}{_POWERS.get(p, '')}" for key, name in _INSIDE.items() if (p := sign * dimension[key]) > 0)
        for sign in (1, -1)
    )
    return f"{above or 1}/{below}" if below else above or "1"


def energy_factor(unit: str) -> float:
    """One `unit` of energy in eV; see `unit_factor`."""
    return unit_factor(unit, "energy")


def _parse(unit: str) -> tuple[float, Counter[str]]:
    text = unit.strip().lower().replace("**", "^").replace("·", "*").replace("²", "^2").replace("³", "^3")
    factor, dimension = 1.0, Counter[str]()
    for operator, name, exponent in re.findall(r"([*/]?)\s*([^*/^\s]+)(?:\^(\d+))?", text or "nothing"):
        if name not in _TABLE:
            raise InputError(f"unknown unit {name!r} in {unit!r}: use {', '.join(_TABLE)} and their products")
        power = int(exponent or 1) * (-1 if operator == "/" else 1)
        value, letters = _TABLE[name]
        factor *= value**power
        for letter in letters.replace("P", "E"):
            dimension[letter] += power
        dimension["L"] -= 3 * power * letters.count("P")
    return factor, Counter({letter: power for letter, power in dimension.items() if power})
