"""A list of neighbours that is made once for many steps: edges to a little more than the cutoff, while atoms move."""

import math

import torch
from ase import Atoms
from ase.geometry import complete_cell
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from pygschnet.errors import InputError
from pygschnet.graph import RadiusGraph, edge_distances, from_atoms


class Neighbours:
    """The graph of a system that moves, with the same edges as `RadiusGraph` gives, most of the time without a search.

    Args:
        cutoff: radius in Å; None for all pairs.
        skin: how much further than the cutoff is searched, in Å.
        device: of the graphs.

    Attributes:
        searches: how often neighbours have been searched for.

    Source: Verlet, Phys. Rev. 159, 98 (1967).
    """

    def __init__(self, cutoff: float | None, skin: float = 0.5, device: torch.device | str = "cpu"):
        if not 0 <= skin < math.inf:
            raise InputError(f"the skin must not be negative, got {skin} Å")
        self.cutoff, self.skin, self.device = cutoff, skin, torch.device(device)
        self._search = RadiusGraph(None if cutoff is None else cutoff + skin)
        self._known: Data | None = None  # all edges, at the positions of the last search
        self.searches = 0

    def graph(self, atoms: Atoms) -> tuple[Data, Float[Tensor, "edges"]]:
        """The graph of a system and the lengths of its edges, in Å.

        Args:
            atoms: the system; a new list is made if it is another one, or has moved too far, or its cell has.

        Raises:
            InputError: as from `RadiusGraph`.
        """
        data = from_atoms(atoms, labels=False).to(self.device)
        if self._known is None or not self._still_good(data, self._known):
            self._known = self._search(data.clone())
            self.searches += 1
        data.edge_index, data.edge_cutoff = self._known.edge_index, self._known.edge_cutoff
        if "edge_shift" in self._known:
            data.edge_shift = self._known.edge_shift
        distances = edge_distances(data)
        if self.cutoff is not None:
            near = distances < self.cutoff
            data.edge_index, distances = data.edge_index[:, near], distances[near]
            if "edge_shift" in data:
                data.edge_shift = data.edge_shift[near]
            data.edge_cutoff = torch.full_like(data.edge_cutoff, self.cutoff)
        return data, distances

    def _still_good(self, data: Data, known: Data) -> bool:
        """Whether all pairs that are now within the cutoff were within cutoff and skin when they were searched for.

        A deformation F of the cell takes atoms to r F, and shortens no distance by more than its smallest singular
        value; what atoms move besides, twice the largest displacement, is subtracted.
        """
        if not torch.equal(data.z, known.z) or ("cell" in data) != ("cell" in known):
            return False
        if self.cutoff is None:
            return True
        moved, shrunk = known.pos, 1.0
        if "cell" in data:
            if not torch.equal(data.pbc, known.pbc):
                return False
            if not torch.equal(data.cell, known.cell):
                before, now = (torch.from_numpy(complete_cell(d.cell[0].cpu().numpy())) for d in (known, data))
                deformation = torch.linalg.solve(before, now)
                shrunk = float(torch.linalg.svdvals(deformation)[-1])
                moved = known.pos @ deformation.to(known.pos)
        displacement = float((data.pos - moved).square().sum(-1).max()) ** 0.5
        return shrunk * (self.cutoff + self.skin) - 2 * displacement >= self.cutoff
