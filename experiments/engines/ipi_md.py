"""i-PI moves the atoms, here the beads of a path integral; any number of clients give the forces through a socket.

i-PI hands every bead to the next free client, so the clients are the parallelism: processes here, or machines with
`mode='inet'` and an address. This script starts the server and the clients, and prints what i-PI wrote.

    python -m experiments.engines.ipi_md MODEL.safetensors START.xyz --beads 8 --clients 2 --steps 50
"""

import argparse
import multiprocessing
import subprocess
import sys
import time
import uuid
from multiprocessing.synchronize import Barrier
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.socketio import SocketClient

import pygschnet

COLUMNS = (
    "step",
    "time{picosecond}",
    "conserved{electronvolt}",
    "potential{electronvolt}",
    "kinetic_md{electronvolt}",
)
INPUT = """<simulation verbosity='low'>
  <output prefix='md'>
    <properties filename='out' stride='1'>
      [{columns}]
    </properties>
  </output>
  <total_steps>{steps}</total_steps>
  <prng><seed>{seed}</seed></prng>
  <ffsocket name='model' mode='unix' pbc='false'><address>{address}</address></ffsocket>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='ase' units='ase'>start.extxyz</file>
      <velocities mode='thermal' units='kelvin'>{temperature}</velocities>
    </initialize>
    <forces><force forcefield='model'/></forces>
    <ensemble><temperature units='kelvin'>{temperature}</temperature></ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nve'><timestep units='femtosecond'>{step}</timestep></dynamics>
    </motion>
  </system>
</simulation>
"""


def client(model_path: str, atoms: Atoms, address: str, ready: Barrier) -> None:
    """Answer the server until it says goodbye."""
    torch.set_num_threads(1)
    atoms.calc = pygschnet.Calculator(model_path)
    ready.wait()
    while True:
        try:
            connection = SocketClient(unixsocket=address)
            break
        except (FileNotFoundError, ConnectionRefusedError):  # not there yet, or not listening yet
            time.sleep(0.05)
    connection.run(atoms, use_stress=False)


def run(
    model_path: str,
    atoms: Atoms,
    folder: Path,
    beads: int = 1,
    clients: int = 1,
    steps: int = 10,
    step: float = 0.5,
    temperature: float = 300.0,
    seed: int = 1,
) -> tuple[np.ndarray, float]:
    """Run i-PI in this folder, with constant energy.

    Args:
        model_path: of the model file.
        atoms: where all beads start.
        folder: for the input and i-PI's output.
        beads: of the path integral; 1 for classical nuclei.
        clients: processes that compute forces.
        steps: of molecular dynamics.
        step: in fs.
        temperature: of the ring polymer and of the velocities drawn, K.
        seed: of the velocities.

    Returns:
        [steps + 1, 5]: step, time in ps; conserved, potential and kinetic energy in eV. And the seconds of the steps.
    """
    address = f"pygschnet-{uuid.uuid4().hex[:12]}"
    if not atoms.pbc.any():
        atoms = atoms.copy()
        atoms.set_cell(np.eye(3) * 100.0)  # i-PI wants a cell; without periodicity it is not used
    ase.io.write(folder / "start.extxyz", atoms)
    (folder / "input.xml").write_text(
        INPUT.format(
            columns=", ".join(COLUMNS),
            steps=steps,
            seed=seed,
            address=address,
            beads=beads,
            temperature=temperature,
            step=step,
        )
    )
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(clients + 1)
    workers = [context.Process(target=client, args=(model_path, atoms, address, ready)) for _ in range(clients)]
    for worker in workers:
        worker.start()
    ready.wait(timeout=300)  # until everything is loaded: i-PI begins as soon as there is one client
    out = folder / "md.out"
    out.unlink(missing_ok=True)
    program = str(Path(sys.executable).parent / "i-pi")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program, "input.xml"], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        begun = 0.0
        while server.poll() is None:
            if not begun and out.exists() and out.read_text().count("\n") > len(COLUMNS):
                begun = time.perf_counter()  # the first row
            if all(worker.exitcode for worker in workers):
                server.terminate()  # all clients have failed, and it would wait for others
            time.sleep(0.02)
        seconds = time.perf_counter() - begun
    for worker in workers:
        worker.join(timeout=10)
        worker.terminate()
    if server.returncode:
        raise RuntimeError(f"i-PI stopped:\n{(folder / 'log').read_text()[-2000:]}")
    return np.loadtxt(out), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("start", help="any file that ASE reads")
    parser.add_argument("--beads", type=int, default=8)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--step", type=float, default=0.25, help="in fs")
    parser.add_argument("--folder", type=Path, default=Path("runs/ipi"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    keys = ("beads", "clients", "steps", "step")
    settings = {key: getattr(arguments, key) for key in keys}
    rows, seconds = run(arguments.model, ase.io.read(arguments.start), arguments.folder, **settings)
    print(f"{arguments.beads} beads, {arguments.clients} clients: {arguments.steps / seconds:.1f} steps/s")
    print(f"conserved energy {rows[0, 2]:.6f} eV, afterwards within {np.ptp(rows[:, 2]):.6f} eV")


if __name__ == "__main__":
    main()
