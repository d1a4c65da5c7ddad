"""The local chemical potential: item 30 of the validation facts; and grids, surfaces, planes and cube files."""

import copy
import inspect
import math
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.io.cube import read_cube
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from pygschnet import AtomisticModel, Atomwise, RadiusGraph, SchNet, from_atoms
from pygschnet.errors import InputError
from pygschnet.interpret import probe
from pygschnet.interpret.probe import local_chemical_potential, with_probes
from pygschnet.interpret.space import Surface, grid_around, isosurface, plane, write_cube
from tests.structures import SCHNETS, SHARED, bare, ethanol, graph, make_model, molecules, randomise, rotations

ELEMENTS = ("H", "C", "N", "O")
Z = {"H": 1, "C": 6, "N": 7, "O": 8}
STEEP = {name: make_model(name) for name in SCHNETS}

each_model = pytest.mark.parametrize("model", STEEP.values(), ids=STEEP)
laws = settings(max_examples=5, deadline=None)


def points_around(atoms: Atoms, count: int = 7, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(atoms.positions.min(0) - 2, atoms.positions.max(0) + 2, (count, 3))


def by_hand(model: AtomisticModel, atoms: Atoms, points: np.ndarray) -> np.ndarray:
    """H at the first point, C at the second, N at the third and O at the fourth.

    From the graph of the molecule and one more atom, without the edges that leave it; all by RadiusGraph.
    """
    energies, last = [], len(atoms)
    for element, point in zip(ELEMENTS, points[:4], strict=True):
        joint = graph(atoms + Atoms(element, [point]), model)
        felt = joint.edge_index[0] != last
        joint.edge_index = joint.edge_index[:, felt]
        if "edge_shift" in joint:
            joint.edge_shift = joint.edge_shift[felt]
        del joint.edge_cutoff
        with torch.no_grad():
            energy = model(joint, forces=False).atomic_energies[last]
        energies.append((energy - model.head.reference_energies[Z[element]]).item())
    return np.array(energies)


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def error(model: AtomisticModel) -> float:
    """What filters from a table may differ by from those that the general way evaluates pair by pair."""
    return 1e-7 if model.representation.filters_from == "table" else 1e-10


# the molecule and its probes


@each_model
def test_probes_leave_the_molecule_alone(model):
    data = graph(ethanol(), model)
    joint = with_probes(
        data, torch.tensor([1, 6, 7, 8] * 5), torch.from_numpy(points_around(ethanol(), 20)), model.cutoff
    )
    del data.edge_cutoff  # so that filters come from the same place in both
    alone, together = (model(one, forces=False).atomic_energies.detach() for one in (data, joint))
    close(together[:9], alone, 1e-12)
    assert together[9:].std() > 1e-3


@each_model
def test_probes_that_act_on_the_molecule_change_it(model):
    """The negative control."""
    data = graph(ethanol(), model)
    joint = with_probes(data, torch.tensor([6]), torch.from_numpy(points_around(ethanol(), 1)), model.cutoff)
    new = joint.edge_index[:, data.edge_index.shape[1] :]
    assert new.shape[1] > 0 and (new[1] == 9).all()
    joint.edge_index = torch.cat([joint.edge_index, new.flip(0)], dim=1)
    energies = model(joint, forces=False).atomic_energies[:9]
    assert (energies - model(data, forces=False).atomic_energies).abs().max() > 1e-4


@each_model
def test_a_probe_is_pushed_but_does_not_push_back(model):
    data = graph(ethanol(), model)
    pos = data.pos.clone().requires_grad_()
    place = torch.from_numpy(points_around(ethanol(), 1)).requires_grad_()
    moved = copy.copy(data)
    moved.pos = pos
    energies = model(with_probes(moved, torch.tensor([6]), place, model.cutoff), forces=False).atomic_energies
    own = torch.autograd.grad(energies[:9].sum(), [pos, place], retain_graph=True, materialize_grads=True)
    of_probe = torch.autograd.grad(energies[9], [pos, place])
    close(own[0].sum(0), 0.0)  # the molecule alone is balanced, and knows nothing of the probe
    assert own[1].abs().max() == 0
    assert of_probe[1].abs().max() > 1e-4  # so that this force has no counterpart
    close(of_probe[0].sum(0), -of_probe[1][0])  # Ω itself depends on relative positions only


@each_model
@laws
@given(data=molecules(), seed=st.integers(0, 1000))
def test_the_shared_sums_equal_probes_one_by_one(model, data, seed):
    atoms = Atoms(data.z.numpy(), data.pos.numpy())
    points = points_around(atoms, 4, seed)
    omega = local_chemical_potential(model, atoms, points, ELEMENTS)
    close(omega.diagonal(), by_hand(model, atoms, points), error(model))


@each_model
def test_other_representations_take_the_general_way(model):
    class Other(SchNet):
        def forward(self, data: Data):
            return 2.0 * super().forward(data)

    points = points_around(ethanol(), 4)
    expected = local_chemical_potential(model, ethanol(), points)
    replaced = copy.deepcopy(model)
    replaced.representation.blocks[0].__class__ = type("Block", (type(replaced.representation.blocks[0]),), {})
    close(local_chemical_potential(replaced, ethanol(), points), expected, error(model))
    other = copy.deepcopy(model)
    other.representation.__class__ = Other
    omega = local_chemical_potential(other, ethanol(), points)
    close(omega.diagonal(), by_hand(other, ethanol(), points), 1e-12)
    assert np.abs(omega - expected).min() > 1e-4


@each_model
def test_single_precision_with_fused_kernels(model):
    points = points_around(ethanol(), 200)
    exact = local_chemical_potential(model, ethanol(), points)
    rounded = local_chemical_potential(copy.deepcopy(model).float(), ethanol(), points)
    assert exact.dtype == rounded.dtype == np.float64
    assert np.abs(rounded - exact).max() < 1e-5 * np.ptp(exact)
    assert (rounded != exact).any()
    assert np.ptp(exact, axis=1).min() > 1e-3  # else nothing has been tested


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@each_model
def test_on_a_gpu(model):
    points = points_around(ethanol(), 200)
    exact = local_chemical_potential(model, ethanol(), points)
    on_gpu = local_chemical_potential(copy.deepcopy(model).float().cuda(), ethanol(), points)
    assert np.abs(on_gpu - exact).max() < 1e-5 * np.ptp(exact)


@each_model
@laws
@given(data=molecules(), rotation=rotations(), seed=st.integers(0, 1000))
def test_symmetries(model, data, rotation, seed):
    atoms = Atoms(data.z.numpy(), data.pos.numpy())
    points, order = points_around(atoms, 5, seed), np.random.default_rng(seed).permutation(len(atoms))
    omega = local_chemical_potential(model, atoms, points)
    turned = Atoms(atoms.numbers, atoms.positions @ rotation.numpy().T + [3.0, -7.0, 11.0])
    turned_points = points @ rotation.numpy().T + [3.0, -7.0, 11.0]
    close(local_chemical_potential(model, turned, turned_points), omega)
    close(local_chemical_potential(model, atoms[order], points[::-1]), omega[:, ::-1])


@each_model
def test_batches_of_any_size(model, monkeypatch):
    points = points_around(ethanol(), 6)
    expected = local_chemical_potential(model, ethanol(), points)
    one_by_one = [local_chemical_potential(model, ethanol(), point[None])[:, 0] for point in points]
    close(np.stack(one_by_one, axis=1), expected, 1e-11)
    for at_once in (1, 40):
        monkeypatch.setattr(probe, "AT_ONCE", at_once)
        close(local_chemical_potential(model, ethanol(), points), expected, 1e-11)


def test_elements_and_points_of_any_number_and_shape():
    model, points = STEEP["short"], points_around(ethanol(), 24)
    omega = local_chemical_potential(model, ethanol(), points)
    shaped = local_chemical_potential(model, ethanol(), points.reshape(2, 3, 4, 3), ("O", "H", "O"))
    close(shaped.reshape(3, 24), omega[[3, 0, 3]], 1e-14)
    assert local_chemical_potential(model, ethanol(), np.zeros((0, 3))).shape == (4, 0)
    close(local_chemical_potential(model, ethanol(), points[3]), omega[:, 3], 1e-12)


@each_model
def test_out_of_reach_it_is_an_isolated_atom(model):
    lonely = [model(graph(Atoms(element), model)).energy.item() for element in ELEMENTS]
    lonely -= model.head.reference_energies[list(Z.values())].numpy()
    omega = local_chemical_potential(model, ethanol(), np.array([[200.0, 0.0, 0.0]]))[:, 0]
    if model.cutoff is None:  # W(d → ∞) is not zero: arXiv:1706.08566 has this, every atom is felt everywhere
        assert np.abs(omega - lonely).max() > 1e-3
    else:
        close(omega, lonely)


@each_model
def test_one_atom(model):
    atom = Atoms("O", [[1.0, 2.0, 3.0]])
    points = atom.positions + np.array([[0.9, 0, 0], [0, 0, -0.9], [0, 90.0, 0], [0.5, 0.3, 0.6]])
    omega = local_chemical_potential(model, atom, points)
    close(omega[:, 0], omega[:, 1])
    close(omega.diagonal(), by_hand(model, atom, points), error(model))


@each_model
def test_on_top_of_an_atom_it_is_finite_and_continuous(model):
    atoms = ethanol()
    there, near = (local_chemical_potential(model, atoms, atoms.positions + step) for step in (0.0, 1e-7))
    assert np.isfinite(there).all()
    assert 0 < np.abs(there - near).max() < 1e-5


def test_graphs_that_the_caller_made():
    model, points = STEEP["short"], points_around(ethanol())
    data = graph(ethanol(), model)
    before = {name: value.clone() for name, value in data.to_dict().items()}
    expected = local_chemical_potential(model, ethanol(), points)
    close(local_chemical_potential(model, data, points), expected)
    close(local_chemical_potential(model, Batch.from_data_list([data]), points), expected)
    wider = RadiusGraph(4.0)(from_atoms(ethanol()))
    close(local_chemical_potential(model, wider, points), expected)
    del data.edge_cutoff
    close(local_chemical_potential(model, data, points), expected)
    assert all(torch.equal(data[name], value) for name, value in before.items() if name != "edge_cutoff")


# periodic systems


def crystal() -> Atoms:
    atoms = bulk("Si", cubic=False)
    atoms.numbers[1] = 8
    atoms.set_cell(atoms.cell.array + np.array([[0, 0, 0], [0.4, 0, 0], [0.3, -0.5, 0]]), scale_atoms=True)
    atoms.positions[0] += [0.3, -40.0, 0.1]  # outside the cell
    return atoms


@pytest.mark.parametrize("name", ["short", "schnetpack", "table"])
@pytest.mark.parametrize("kind", ["crystal", "slab", "chain"])
def test_all_images_are_seen(name, kind):
    model = STEEP[name]
    atoms = {
        "crystal": crystal(),
        "slab": fcc111("Al", (1, 2, 2), vacuum=None),
        "chain": Atoms("HCO", [[0, 0, 0], [1.1, 0.2, 0], [2.2, -0.4, 0.3]], cell=[[3.1, 0.5, 0], [0] * 3, [0] * 3]),
    }[kind]
    atoms.pbc = {"crystal": [1, 1, 1], "slab": [1, 1, 0], "chain": [1, 0, 0]}[kind]
    if kind == "slab":
        atoms.cell[2] = atoms.cell[0] + atoms.cell[1]  # no period: it means nothing
    points = points_around(atoms, 4) + np.array([0, 0, 30.0 * (kind == "crystal")])
    omega = local_chemical_potential(model, atoms, points)
    close(omega.diagonal(), by_hand(model, atoms, points), error(model))
    assert np.ptp(omega, axis=1).min() > 1e-4
    other = copy.deepcopy(model)
    other.representation.__class__ = type(
        "Other", (SchNet,), {"forward": lambda self, data: SchNet.forward(self, data)}
    )
    close(local_chemical_potential(other, atoms, points), omega, error(model))


@pytest.mark.parametrize("name", ["short", "schnetpack"])
def test_supercells_and_lattice_vectors(name):
    model, atoms = STEEP[name], crystal()
    points = points_around(atoms, 6)
    omega = local_chemical_potential(model, atoms, points)
    close(local_chemical_potential(model, atoms.repeat((2, 1, 3)), points), omega)
    far = points + np.array([[3, -1, 2], [0, 0, 1], [-40, 7, 1], [1, 0, 0], [0, -1, 0], [9, 9, 9]]) @ atoms.cell.array
    close(local_chemical_potential(model, atoms, far), omega)
    assert np.abs(local_chemical_potential(model, atoms, points + atoms.cell.array[0] / 2) - omega).max() > 1e-3


# errors


def test_elements_that_the_model_has_never_seen():
    model = copy.deepcopy(STEEP["short"])
    model.head.fit(torch.tensor([1, 6, 8]), torch.tensor([0, 0, 0]), torch.tensor([1.0]))
    assert local_chemical_potential(model, ethanol(), np.zeros((1, 3)), ("H", "C", "O")).shape == (3, 1)
    with pytest.raises(InputError, match="not been trained on N, only on H, C, O"):
        local_chemical_potential(model, ethanol(), np.zeros((1, 3)))
    with pytest.raises(InputError, match="not been trained on N"):
        local_chemical_potential(model, molecule("N2"), np.zeros((1, 3)), ("H",))


@pytest.mark.parametrize(
    "points, elements, message",
    [
        (np.zeros((4, 2)), ("H",), "three coordinates; got an array of shape \\[4, 2\\]"),
        (np.array([[0.0, np.nan, 0.0], [np.inf, 0.0, np.nan]]), ("H",), "2 of the points, in Å, are not finite"),
        (np.zeros((4, 3)), ("H", "Xy"), "unknown element 'Xy'"),
        (np.zeros((4, 3)), ("X",), "unknown element 'X'"),
    ],
)
def test_wrong_points_and_elements(points, elements, message):
    unchecked = inspect.unwrap(local_chemical_potential)  # by the tests' checks of shapes, which users do not have
    with pytest.raises(InputError, match=message):
        unchecked(STEEP["short"], ethanol(), points, elements)


def test_models_and_structures_without_probes():
    mean = randomise(AtomisticModel(SchNet(cutoff=5.0), Atomwise(aggregation="mean"))).double()
    with pytest.raises(InputError, match="sum over atoms"):
        local_chemical_potential(mean, ethanol(), np.zeros((1, 3)))
    model = STEEP["short"]
    with pytest.raises(InputError, match="a batch of 2"):
        pair = Batch.from_data_list([bare(torch.tensor([1]), torch.zeros(1, 3).double(), model)] * 2)
        local_chemical_potential(model, pair, np.zeros((1, 3)))
    with pytest.raises(InputError, match="cutoff"):
        local_chemical_potential(STEEP["paper"], crystal(), np.zeros((1, 3)))
    with pytest.raises(InputError, match="a model with a cutoff"):
        edges_of_unknown_reach = graph(crystal(), model)
        del edges_of_unknown_reach.edge_cutoff
        local_chemical_potential(STEEP["paper"], edges_of_unknown_reach, np.zeros((1, 3)))


@pytest.mark.skipif(not SHARED.exists(), reason="needs shared/data")
def test_aspirin():
    with np.load(SHARED / "md17" / "aspirin.npz") as frames:
        aspirin = Atoms(frames["nuclear_charges"], frames["coords"][0])
    model = STEEP["schnetpack"]
    surface = isosurface(aspirin.positions, spacing=0.6)
    some = surface.vertices[:: len(surface.vertices) // 4]
    close(local_chemical_potential(model, aspirin, some).diagonal(), by_hand(model, aspirin, some))


# grids, surfaces, planes and files


def density(points: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """s(r), written otherwise than in the package."""
    return (np.linalg.norm(points[..., None, :] - positions, axis=-1) ** -2).sum(-1)


def edges(surface: Surface) -> np.ndarray:
    return np.concatenate([surface.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])


def area_and_volume(surface: Surface) -> tuple[float, float]:
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2, (a * np.cross(b, c)).sum() / 6


@laws
@given(data=molecules(), level=st.floats(0.5, 8.0))
def test_surfaces_are_closed_and_on_the_level(data, level):
    positions = data.pos.numpy()
    surface = isosurface(positions, level, 0.15)
    close(density(surface.vertices, positions), level, 1e-8)
    directed = [tuple(edge) for edge in edges(surface).tolist()]
    assert len(set(directed)) == len(directed)  # two faces at an edge run along it in opposite directions
    assert {(b, a) for a, b in directed} == set(directed)
    assert (len(surface.vertices) - len(directed) // 2 + len(surface.faces)) % 2 == 0  # 2 − 2 handles, per piece
    nearest = np.linalg.norm(surface.vertices[:, None] - positions, axis=-1).min(1)
    assert nearest.max() <= math.sqrt(len(positions) / level) + 1e-9
    assert nearest.min() >= math.sqrt(1 / level) - 1e-9
    assert area_and_volume(surface)[1] > 0


@pytest.mark.parametrize("name, characteristic", [("CH4", 2), ("C6H6", 2), ("C6H6, 8 Å⁻²", None)])
def test_the_surfaces_of_the_paper(name, characteristic):
    level = 3.8 if characteristic else 8.0
    surface = isosurface(molecule(name[:4].rstrip(",")).positions, level)
    found = len(surface.vertices) - len(edges(surface)) // 2 + len(surface.faces)
    assert found == characteristic if characteristic else found != 2  # it comes apart, or has a hole


def test_the_surface_of_one_atom_is_a_sphere():
    for level in (3.8, 6.25):  # the second has points of the grid on the surface
        surface, radius = isosurface(np.array([[1.0, 2.0, 3.0]]), level, 0.05), level**-0.5
        close(np.linalg.norm(surface.vertices - [1, 2, 3], axis=1), radius)
        area, volume = area_and_volume(surface)
        assert area == pytest.approx(4 * np.pi * radius**2, rel=0.01)
        assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
        a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
        outwards = (np.cross(b - a, c - a) * ((a + b + c) / 3 - [1, 2, 3])).sum(-1)
        assert (outwards > -1e-12).all()


@laws
@given(rotation=rotations())
def test_a_rotated_molecule_has_a_rotated_surface(rotation):
    positions = molecule("CH3CH2OH").positions
    plain = area_and_volume(isosurface(positions, spacing=0.15))
    turned = area_and_volume(isosurface(positions @ rotation.numpy().T + 5.0, spacing=0.15))
    np.testing.assert_allclose(turned, plain, rtol=5e-3)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(InputError, match="pip install scikit-image"):
        isosurface(np.zeros((1, 3)))


def test_grids():
    positions = np.array([[0.0, 0.0, 0.0], [1.03, -2.0, 0.0]])
    grid = grid_around(positions, 0.3, 1.5)
    assert grid.points.shape == (*grid.shape, 3)
    close(grid.points[2, 1, 4] - grid.points[1, 1, 1], [0.3, 0.0, 0.9])
    low, high = grid.points[0, 0, 0], grid.points[-1, -1, -1]
    assert (low <= positions.min(0) - 1.5 + 1e-9).all() and (low > positions.min(0) - 1.5 - 0.3).all()
    assert (high >= positions.max(0) + 1.5 - 1e-9).all() and (high < positions.max(0) + 1.5 + 0.3).all()
    close((low + high) / 2, positions.mean(0))


@laws
@given(rotation=rotations(), height=st.floats(-2, 2))
def test_a_plane_through_a_ring(rotation, height):
    benzene = molecule("C6H6")
    positions = benzene.positions @ rotation.numpy().T + [4.0, 5.0, 6.0]
    ring = [int(i) for i in np.flatnonzero(benzene.numbers == 6)]
    flat = plane(positions, ring, height, spacing=0.25)
    close(flat.axes @ flat.axes.T, np.eye(3))
    assert np.linalg.det(flat.axes) > 0
    close(flat.coordinates(positions)[:, 2], -height, 1e-4)
    close(flat.coordinates(positions)[ring[0], :2], [np.linalg.norm(benzene.positions[ring[0]]), 0.0], 1e-4)
    close(flat.coordinates(flat.points.reshape(-1, 3)).reshape(flat.points.shape)[..., 2], 0.0)
    close(flat.coordinates(flat.points[3])[:, 0], flat.x)
    close(flat.coordinates(flat.points[:, 3])[:, 1], flat.y)
    assert np.abs(flat.axes[2]).max() == flat.axes[2].max()  # the sign
    assert flat.x[-1] >= flat.coordinates(positions)[ring, 0].max() + 3.0 - 1e-9
    close(np.diff(flat.x), 0.25)


@laws
@given(data=molecules(low=4))
def test_no_other_plane_comes_closer(data):
    positions, rng = data.pos.numpy(), np.random.default_rng(0)
    flat = plane(positions)
    normals = rng.normal(size=(1000, 3))
    others = np.square((positions - positions.mean(0)) @ normals.T).sum(0) / np.square(normals).sum(1)
    assert np.square(flat.coordinates(positions)[:, 2]).sum() <= others.min() + 1e-9
    extents = np.ptp(flat.coordinates(positions), axis=0)
    assert (np.array([len(flat.x), len(flat.y)]) >= (extents[:2] + 6.0) / 0.1).all()


def test_signs_of_axes():
    for seed in range(20):
        axes = plane(np.random.default_rng(seed).normal(size=(6, 3)) * [3.0, 2.0, 1.0]).axes
        largest = np.abs(axes).argmax(1)
        assert axes[0, largest[0]] > 0 and axes[2, largest[2]] > 0


@pytest.mark.parametrize("direction", [[1, 0, 0], [0, 0, 1], [0, -1, 0], [1, 2, -2]])
def test_planes_of_lines_and_points(direction):
    direction = np.array(direction) / np.linalg.norm(direction)
    line = np.outer([-1.2, 0.0, 1.2], direction) + 1.0
    flat = plane(line)
    close(flat.axes @ flat.axes.T, np.eye(3))
    close(np.abs(flat.axes[0] @ direction), 1.0)
    close(flat.coordinates(line)[:, 1:], 0.0)
    point = plane(line[:1], height=1.0, margin=1.0)
    close(point.axes, np.eye(3))
    close(point.points[10, 10], line[0] + [0, 0, 1])


def test_wrong_regions():
    with pytest.raises(InputError, match="some atoms"):
        grid_around(np.zeros((0, 3)))
    with pytest.raises(InputError, match="some atoms"):
        isosurface(np.full((1, 3), np.nan))
    with pytest.raises(InputError, match="spacing above 0 Å"):
        plane(np.zeros((1, 3)), spacing=0.0)
    with pytest.raises(InputError, match="level must be above 0 Å⁻², got -1.0"):
        isosurface(np.zeros((1, 3)), -1.0)
    for wrong in ([], [0, 3], [-1]):
        with pytest.raises(InputError, match="a plane through atoms"):
            plane(np.zeros((3, 3)), wrong)


def test_cube_files(tmp_path):
    atoms, path = ethanol(), tmp_path / "omega.cube"
    grid = grid_around(atoms.positions, 0.7, 1.0)
    values = local_chemical_potential(STEEP["short"], atoms, grid.points, ("C",))[0]
    write_cube(path, atoms, grid, values, "local chemical potential of C in eV")
    with path.open() as file:
        found = read_cube(file)
    np.testing.assert_allclose(found["data"], values, rtol=1e-6)
    np.testing.assert_allclose(found["atoms"].positions, atoms.positions, atol=1e-6)
    assert (found["atoms"].numbers == atoms.numbers).all()
    np.testing.assert_allclose(found["origin"], grid.origin, atol=1e-6)
    np.testing.assert_allclose(found["spacing"], grid.steps, atol=1e-6)
    assert path.read_text().startswith("local chemical potential of C in eV; lengths in Bohr\n")
    with pytest.raises(InputError, match="values of shape"):
        write_cube(path, atoms, grid, values[1:])
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_cube(path, atoms, grid, values, "no character: \ud800")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
