"""What every explanation begins with: a molecule as the graph that the model takes."""

from ase import Atoms
from torch_geometric.data import Data

from pygschnet.graph import RadiusGraph, from_atoms
from pygschnet.model import AtomisticModel


def graph_of(model: AtomisticModel, molecule: Atoms | Data) -> Data:
    """The graph of a molecule, on the device of the model; what has edges already stays as it is.

    Args:
        model: decides the cutoff and the device.
        molecule: a structure of ASE, or a PyG `Data`, which is not changed.

    Raises:
        InputError: for structures that the model cannot take, such as unknown elements.
    """
    data = from_atoms(molecule) if isinstance(molecule, Atoms) else molecule
    if "edge_index" not in data:
        data = RadiusGraph(model.cutoff)(data)
    data = data.clone().to(model.device)
    model.check(data)
    return data
