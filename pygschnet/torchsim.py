"""Simulations of many systems at once by TorchSim, which is installed apart: `pip install torch-sim-atomistic`."""

import copy

import torch
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import RadiusGraph
from pygschnet.model import AtomisticModel

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
except ImportError as error:
    raise ImportError(f"pygschnet.torchsim needs TorchSim ({error}): pip install torch-sim-atomistic") from None


class TorchSimModel(ModelInterface):
    """A model as TorchSim wants it, for `torch_sim.integrate`, `torch_sim.optimize` and the rest of it.

    Energies are in eV and stay in float64, forces are in eV/Å, the stress is (∂E/∂ε)/V in eV/Å³, positive under
    tension, in all of which TorchSim agrees. Edges are found anew at every step: for molecules where the positions
    are, for periodic systems on the CPU.

    Args:
        model: trained; it is copied, not changed.
        device: where to compute; null for where the model is.
        dtype: of the weights, and of the states that TorchSim makes; null for the one the weights have.
        stress: whether to compute the stress, for periodic systems.

    Raises:
        InputError: for a dtype other than float32 and float64, and on evaluation for what `AtomisticModel` refuses.
    """

    def __init__(
        self,
        model: AtomisticModel,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        stress: bool = False,
    ):
        super().__init__()
        self._device = torch.device(device or model.device)
        self._dtype = dtype or model.dtype
        if self._dtype not in (torch.float32, torch.float64):
            raise InputError(f"simulations need float32 or float64, not {self._dtype}")
        self._compute_forces, self._compute_stress = True, stress
        self.model = copy.deepcopy(model).to(self._device, self._dtype).eval()
        self.graph = RadiusGraph(model.cutoff)

    def forward(self, state: SimState) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            energy, forces, stress, *_ = self.model(self.graph(to_data(state)), stress=self.compute_stress)
        outputs = {"energy": energy, "forces": forces}
        return outputs | {"stress": stress} if self.compute_stress else outputs


def to_data(state: SimState) -> Data:
    """The systems of a TorchSim state as one graph, without edges."""
    systems = len(state.cell)
    ptr = torch.bincount(state.system_idx, minlength=systems).cumsum(0)
    data = Data(
        z=state.atomic_numbers.long(),
        pos=state.positions,
        batch=state.system_idx,
        ptr=torch.cat([ptr.new_zeros(1), ptr]),
    )
    pbc = torch.as_tensor(state.pbc, device=ptr.device).expand(3)  # one bool up to TorchSim 0.3, three later
    if pbc.any():
        data.cell, data.pbc = state.row_vector_cell, pbc.expand(systems, 3)
    return data
