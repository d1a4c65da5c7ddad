"""Units. Inside the package energies are in eV and lengths in Å; everything is converted once, when it is read.

The constants are ASE's (CODATA 2014).
"""

from ase import units as ase_units

from pygschnet.errors import InputError

UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³", "pos": "Å", "rho": "Å²"}
"""The unit of every property inside the package."""

_ENERGY = {
    "ev": 1.0,
    "mev": 1e-3,
    "ha": ase_units.Hartree,
    "hartree": ase_units.Hartree,
    "kcal/mol": ase_units.kcal / ase_units.mol,
    "kj/mol": ase_units.kJ / ase_units.mol,
}
_LENGTH = {
    "å": 1.0,
    "ang": 1.0,
    "angstrom": 1.0,
    "bohr": ase_units.Bohr,
    "a0": ase_units.Bohr,
    "nm": ase_units.nm,
}


def energy_factor(unit: str) -> float:
    """One `unit` of energy in eV.

    Args:
        unit: eV, meV, Ha, Hartree, kcal/mol or kJ/mol, in any case.

    Raises:
        InputError: for any other unit.
    """
    return _factor(unit, _ENERGY, "energy")


def length_factor(unit: str) -> float:
    """One `unit` of length in Å.

    Args:
        unit: Å, Ang, Angstrom, Bohr, a0 or nm, in any case.

    Raises:
        InputError: for any other unit.
    """
    return _factor(unit, _LENGTH, "length")


def _factor(unit: str, table: dict[str, float], quantity: str) -> float:
    try:
        return table[unit.strip().lower()]
    except KeyError:
        raise InputError(f"unknown unit of {quantity} {unit!r}: use one of {', '.join(table)}") from None
