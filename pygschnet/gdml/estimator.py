"""GDML with the interface of scikit-learn's estimators."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch_geometric.data import Batch, Data

from pygschnet.errors import InputError
from pygschnet.gdml.force_field import GDML, SIGMAS
from pygschnet.graph import RadiusGraph
from pygschnet.heads import Sum
from pygschnet.model import AtomisticModel

Array = np.ndarray

HELD_OUT = 10
"""One training frame in so many chooses σ, if no validation frames are given."""


class GDMLRegressor:
    """GDML or sGDML as a regressor of scikit-learn: positions in Å in, forces in eV/Å out.

    Works with `clone`, `cross_val_score`, `GridSearchCV` and the like, without needing scikit-learn itself.

    Args:
        z: atomic numbers of the molecule.
        symmetric: sGDML, with the permutations of equivalent atoms.
        sigmas: length scales in 1/Å to choose from; for a search over one at a time [[10.0], [20.0]].
        regularisation: λ, in units of the variance of the forces.
        max_gigabytes: memory that training may take, in GB; what the machine has free if null.

    Attributes:
        model_: the fitted model, for `pygschnet.save`, the calculator and everything else.
        sigma_: the σ chosen, in 1/Å.
        n_features_in_: coordinates of a frame.
    """

    def __init__(
        self,
        z: Sequence[int],
        symmetric: bool = False,
        sigmas: Sequence[float] = SIGMAS,
        regularisation: float = 1e-10,
        max_gigabytes: float | None = None,
    ):
        self.z, self.symmetric, self.sigmas = z, symmetric, sigmas
        self.regularisation, self.max_gigabytes = regularisation, max_gigabytes

    def fit(
        self,
        X: Float[Array, "frames ..."],
        y: Float[Array, "frames ..."],
        energies: Float[Array, "frames"] | None = None,
        X_val: Float[Array, "others ..."] | None = None,
        y_val: Float[Array, "others ..."] | None = None,
    ) -> "GDMLRegressor":
        """Train; of several σ the one is taken that is best for the validation frames.

        Args:
            X: positions in Å, [frames, atoms, 3].
            y: forces in eV/Å, likewise.
            energies: in eV, for the constant of the energy, which is 0 without.
            X_val: positions of the validation frames; if null every tenth training frame is held out, where there
                are several σ to choose from.
            y_val: their forces.

        Raises:
            InputError: as of `GDML.fit`, and for arrays that do not fit together.
        """
        training, validation = self._frames(X, y, energies), []
        if X_val is not None and y_val is not None:
            validation = self._frames(X_val, y_val)
        elif len(self.sigmas) > 1:
            validation = training[HELD_OUT - 1 :: HELD_OUT] or training[-1:]
            training = [frame for k, frame in enumerate(training) if k % HELD_OUT != HELD_OUT - 1]
        gdml = GDML(self.symmetric, self.sigmas, self.regularisation, self.max_gigabytes)
        gdml.fit(*([Batch.from_data_list(part)] if part else [] for part in (training, validation)))
        self.model_ = AtomisticModel(gdml, Sum()).eval()
        everything = RadiusGraph(None)(Batch.from_data_list(training))
        self.model_.extend_range(everything)
        self.model_.head.fit(everything.z, everything.batch, everything.pos.new_zeros(len(training)))
        self.sigma_, self.n_features_in_ = float(gdml.sigma), 3 * len(self.z)
        return self

    def predict(self, X: Float[Array, "frames ..."]) -> Float[Array, "frames atoms 3"]:
        """Forces in eV/Å.

        Args:
            X: positions in Å.
        """
        return self._gdml().forces(self._positions(X)).numpy()

    def predict_energy(self, X: Float[Array, "frames ..."]) -> Float[Array, "frames"]:
        """Energies in eV.

        Args:
            X: positions in Å.
        """
        with torch.no_grad():
            return self._gdml().atomic_energies(self._positions(X)).sum(1).numpy()

    def score(self, X: Float[Array, "frames ..."], y: Float[Array, "frames ..."]) -> float:
        """R² of all components of the forces.

        Args:
            X: positions in Å.
            y: forces in eV/Å.
        """
        return float(1 - np.square(self.predict(X) - y).sum() / np.square(y - y.mean()).sum())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments.

        Args:
            deep: scikit-learn's; there are no estimators within.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> "GDMLRegressor":
        """Change arguments of the constructor.

        Raises:
            InputError: for what is none.
        """
        if unknown := sorted(params.keys() - self.get_params().keys()):
            raise InputError(f"{', '.join(unknown)}: there is no such argument, only {', '.join(self.get_params())}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn, which alone calls this, wants to know."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, multi_output=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
        )

    def _gdml(self) -> GDML:
        try:
            return self.model_.representation
        except AttributeError:
            raise InputError("this GDMLRegressor has not been trained: call fit first") from None

    def _positions(self, X: Array) -> torch.Tensor:
        if X.shape[1:] != (len(self.z), 3):
            raise InputError(f"X should have the shape [frames, {len(self.z)}, 3], not {list(X.shape)}")
        return torch.from_numpy(np.array(X, dtype=np.float64))

    def _frames(self, X: Array, y: Array, energies: Array | None = None) -> list[Data]:
        if y.shape != X.shape or (energies is not None and energies.shape != X.shape[:1]):
            shapes = [list(array.shape) for array in (X, y, *([] if energies is None else [energies]))]
            raise InputError(f"positions, forces and energies do not fit together: their shapes are {shapes}")
        z, pos, forces = torch.tensor(self.z), self._positions(X), torch.from_numpy(np.array(y, dtype=np.float64))
        frames = [Data(z=z, pos=r, forces=f) for r, f in zip(pos, forces, strict=True)]
        if energies is not None:
            for frame, energy in zip(frames, np.asarray(energies, dtype=np.float64), strict=True):
                frame.energy = torch.tensor([energy])
        return frames
