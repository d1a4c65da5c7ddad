"""One contender of `peers.py` in a process of its own: ours, SchNetPack's or PyG's SchNet.

    python contender.py CONTENDER WORK DEVICE THREADS        obeys lines on stdin: "answers FILE", "run TIMES"
    python contender.py CONTENDER WORK DEVICE THREADS peak   prints the peak memory of the work in MB

Replies are lines of JSON.
"""

import functools
import json
import resource
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch_geometric.data import Data
from torch_geometric.nn.models.schnet import SchNet as PyGSchNet
from torch_geometric.nn.models.schnet import ShiftedSoftplus

import pygschnet
from experiments.benchmarks.systems import WORKS, Work, graph
from pygschnet.graph import molecule_index
from pygschnet.representations import SchNet
from pygschnet.training import energy_forces_loss
from tests.patterns import fill, pyg_names, schnetpack_names

RHO, LEARNING_RATE = 100.0, 1e-12  # so small that the weights stay what they are


class Ours:
    """Used as the README does; the other contenders have the same methods."""

    def __init__(self, work: Work, device: torch.device):
        self.model = pygschnet.preset(work.preset).to(device)
        self.data = graph(work, self.model.cutoff).to(device)
        self.names = {name: name for name, _ in self.model.named_parameters()}
        fill(self.model)

    def inputs(self) -> Data:
        return self.data.clone()  # so that nothing an earlier run may have kept can help

    def predict(self, data: Data) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(self.model.training):  # without, the forces cannot be differentiated again
            return self.model(data)

    def loss(self, prediction: tuple[Tensor, ...]) -> Tensor:
        return energy_forces_loss(prediction, self.data, RHO)


class Peer:
    """A model that gives energies; forces and loss as its users write them, in float32."""

    model: nn.Module
    network: nn.Module  # what is compiled

    def __init__(self, work: Work, device: torch.device):
        ours = Ours(work, device)
        self.data, self.settings = ours.data, ours.model.representation
        self.source, self.target = self.data.edge_index
        self.batch, self.molecules = molecule_index(self.data)
        self.labels = self.data.energy.float()
        # all molecules of a work have the same size: the mean over components is that over molecules of 1/n Σ_i
        self.force_weight = 3 * RHO
        self.make(device)
        fill(self.model, self.names)

    def compile(self) -> None:
        torch._dynamo.config.capture_scalar_outputs = True  # the number of molecules is read from a tensor
        torch._functorch.config.donated_buffer = not self.model.training  # what is given away is gone for a second pass
        self.network.compile()

    def inputs(self) -> Tensor:
        return self.data.pos.clone()

    def predict(self, pos: Tensor) -> tuple[Tensor, ...]:
        energy = self.energy(pos.requires_grad_())
        return energy, -torch.autograd.grad(energy.sum(), pos, create_graph=self.model.training)[0]

    def loss(self, prediction: tuple[Tensor, ...]) -> Tensor:
        energy, forces = prediction
        return mse_loss(energy, self.labels) + self.force_weight * mse_loss(forces, self.data.forces)


class PyG(Peer):
    def make(self, device: torch.device) -> None:
        s = self.settings
        sizes = (s.features, s.filters, s.interactions, s.gaussians, s.gaussian_stop)
        self.model, self.names = PyGSchNet(*sizes, interaction_graph=self.edges), pyg_names(s.interactions)
        widths, expansion = gaussian_widths(s), self.model.distance_expansion
        expansion.offset, expansion.coeff = s.basis.centres, -0.5 / widths**2
        for block in self.model.interactions:
            block.conv.cutoff = s.cutoff or 1e30  # whose cosine is 1
            if s.filter_final_activation:
                block.mlp.append(ShiftedSoftplus())
        self.network = self.model.to(device)

    def edges(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        # index_select, whose gradient is faster than that of PyG's own pos[source]
        vectors = pos.index_select(0, self.source) - pos.index_select(0, self.target)
        return self.data.edge_index, vectors.norm(dim=-1)

    def energy(self, pos: Tensor) -> Tensor:
        return self.model(self.data.z, pos, self.batch).squeeze(-1)


class SchNetPack(Peer):
    def make(self, device: torch.device) -> None:
        self.model = schnetpack_model(self.settings).to(device)
        self.network = self.model.representation  # inductor has an error, on CPUs, in the sum over single molecules
        self.names = schnetpack_names(self.settings.interactions)

    def energy(self, pos: Tensor) -> Tensor:
        return self.model(schnetpack_inputs(self.data, pos, self.batch))["energy"]


def schnetpack_model(s: SchNet) -> nn.Module:
    """SchNetPack's network with the sizes, the Gaussians and the cutoff of ours."""
    from tests.fixtures.make_schnetpack import schnetpack, shifted_softplus  # stubs what it lacks

    basis = schnetpack.nn.GaussianRBF(s.gaussians, s.gaussian_stop)
    basis.offsets, basis.widths = s.basis.centres, gaussian_widths(s)
    cutoff = Ones() if s.cutoff is None else schnetpack.nn.CosineCutoff(s.cutoff)
    net = schnetpack.representation.SchNet(s.features, s.interactions, basis, cutoff, s.filters)
    if s.filter_final_activation:
        for block in net.interactions:
            block.filter_network[1] = schnetpack.nn.Dense(s.filters, s.filters, activation=shifted_softplus)
    head = schnetpack.atomistic.Atomwise(
        s.features, n_hidden=s.features // 2, activation=shifted_softplus, output_key="energy"
    )
    distances = schnetpack.atomistic.PairwiseDistances()
    return schnetpack.model.NeuralNetworkPotential(net, [distances], [head])


def schnetpack_inputs(data: Data, pos: Tensor, batch: Tensor) -> dict[str, Tensor]:
    """What SchNetPack's networks take."""
    from tests.fixtures.make_schnetpack import properties

    source, target = data.edge_index
    pairs = {properties.idx_m: batch, properties.idx_i: target, properties.idx_j: source}
    offsets = pos.new_zeros(1, 3)  # broadcast: nothing to read
    return {properties.Z: data.z, properties.R: pos, properties.offsets: offsets, **pairs}


def gaussian_widths(s: SchNet) -> Tensor:
    """Standard deviations of the Gaussians, in Å."""
    relative = s.basis.settings[-1]
    return torch.full_like(s.basis.centres, s.basis.narrowest) if relative is None else relative * s.basis.centres


class Ones(nn.Module):
    """A cutoff function that does not cut."""

    cutoff = None

    def forward(self, distances: Tensor) -> Tensor:
        return torch.ones_like(distances)


class Bench:
    """A contender at work."""

    def __init__(self, name: str, work: Work, device: torch.device):
        kind = {"ours": Ours, "schnetpack": SchNetPack, "pyg": PyG}[name.removesuffix(" compiled")]
        self.contender, self.device, self.train = kind(work, device), device, work.train
        self.contender.model.train(work.train)
        self.parameters = dict(self.contender.model.named_parameters())
        self.optimizer = torch.optim.Adam(self.parameters.values(), LEARNING_RATE, fused=True)
        if name.endswith(" compiled"):
            self.contender.compile()

    def work(self, inputs: Data | Tensor) -> None:
        prediction = self.contender.predict(inputs)
        if self.train:
            self.contender.loss(prediction).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def answers(self) -> dict[str, Tensor]:
        """What all contenders must agree on, gradients in the order of our names."""
        prediction = self.contender.predict(self.contender.inputs())
        answers = {"energy": prediction[0], "forces": prediction[1]}
        if self.train:
            answers["loss"] = self.contender.loss(prediction)
            answers["loss"].backward()
            names = sorted(self.parameters, key=self.contender.names.__getitem__)
            answers["gradient"] = torch.cat([self.parameters[name].grad.flatten() for name in names])
            self.optimizer.zero_grad()
        return {name: tensor.detach().double().cpu() for name, tensor in answers.items()}

    def save(self, file: str) -> None:
        torch.save(self.answers(), file)

    def run(self, times: int) -> list[float]:
        """Seconds of each run; where there are several, one goes first that finds the caches as others left them."""
        seconds = [self.timed(self.contender.inputs()) for _ in range(times + (times > 1))]
        return seconds[-times:]

    def timed(self, inputs: Data | Tensor) -> float:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            self.work(inputs)
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1000
        start = time.perf_counter()
        self.work(inputs)
        return time.perf_counter() - start

    def peak_mb(self) -> float:
        """By how much memory grows, at the highest, in three runs."""
        inputs = [self.contender.inputs() for _ in range(3)]
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the highest so far is from now on the present
            before = status("VmRSS")
        while inputs:
            self.work(inputs.pop())
        return ((torch.cuda.max_memory_allocated() if self.device.type == "cuda" else status("VmHWM")) - before) / 1e6


def status(field: str) -> int:
    """A number of bytes that Linux keeps about this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    name, number, kind, threads, *what = sys.argv[1:]
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print is no reply
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    device, work = torch.device(kind), WORKS[int(number)]
    if kind == "cpu":  # rather an error than a machine without memory
        total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (int(0.95 * total),) * 2)

    def reply(action) -> None:
        try:
            result = action()
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]}
        print(json.dumps(result), file=replies, flush=True)

    if what:
        small = Bench(name, WORKS[8]._replace(preset=work.preset, train=work.train), device)
        small.run(3)  # so that what libraries load and keep does not count
        del small
        return reply(Bench(name, work, device).peak_mb)
    bench = Bench(name, work, device)
    reply(lambda: "ready")
    for line in sys.stdin:
        command, argument = line.rstrip("\n").split(maxsplit=1)
        reply(
            functools.partial(bench.run, int(argument)) if command == "run" else functools.partial(bench.save, argument)
        )


if __name__ == "__main__":
    main()
