"""`pygschnet doctor`: looks at everything that a training needs, and says what to do about what it finds."""

from pathlib import Path
from typing import Any

from pygschnet.datasets import MoleculeData, info
from pygschnet.datasets.choose import open_file
from pygschnet.doctor import cost, kernels, machine, subject
from pygschnet.doctor.problems import Problem
from pygschnet.doctor.text import as_text
from pygschnet.errors import InputError
from pygschnet.graph import RadiusGraph
from pygschnet.training import AtomisticModule
from pygschnet.training.report import write_json


def doctor(
    model: str | None = None,
    file: str | None = None,
    data: MoleculeData | None = None,
    config: str | None = None,
    json: str | None = None,
) -> int:
    """Print what is installed, which kernels are active and right, what model and data hold, and what training costs.

    Time is measured by training a few steps, for a model or a configuration with data; nothing of it is kept.

    Args:
        model: a model file to look at.
        file: data to look at: npz of MD17 or rMD17, or whatever the data set Files reads.
        data: instead of a file a data set with settings.
        config: config.yaml of a run, for its model, data and length.
        json: file for the same facts as JSON.

    Returns:
        0, or 1 if something is broken: the exit code.
    """
    facts: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, look in (
        ("versions", machine.versions),
        ("devices", machine.devices),
        ("kernels", kernels.check_kernels),
    ):
        facts[name], found = look()
        problems += found
    facts["edges"], found = kernels.check_edges()
    problems += found
    try:
        problems += _subjects(facts, model, file, data, config)
    except (InputError, OSError) as error:
        problems.append(Problem(str(error), True))
    broken = any(problem.broken for problem in problems)
    facts |= {"problems": [problem._asdict() for problem in problems], "broken": broken}
    print(as_text(facts))
    if json is not None:
        write_json(facts, Path(json))
    return int(broken)


def _subjects(
    facts: dict[str, Any], model: str | None, file: str | None, data: MoleculeData | None, config: str | None
) -> list[Problem]:
    """Add the facts about model, data and training."""
    module: AtomisticModule | None = None
    settings: dict[str, Any] = {}
    if config is not None:
        module, configured, settings = subject.from_config(config)
        data = data if data is not None or file is not None else configured
    if model is not None:
        facts["model"], network = subject.model_facts(model)
        properties: dict[str, Any] = dict(network.properties.items())
        module = (
            AtomisticModule(network.representation, network.head, properties=properties) if module is None else module
        )
    if file is not None:
        data = open_file(file, store_edges=True) if data is None else data
    if data is None:
        return []
    if module is not None and data.molecules is None:
        data.graph = RadiusGraph(module.model.cutoff, data.graph.backend)
    with cost.quiet():  # the summary has the suspicions
        data.setup("fit")
    facts["data"] = info.summarize(data)
    if module is None:
        return []
    fields = data.label_units()
    known = facts["model"]["elements"] if model is not None else []
    unknown = [symbol for symbol in facts["data"]["elements"] if known and symbol not in known]
    if unknown:
        which = f"the data hold {', '.join(unknown)}, on which the model has not been trained"
        return [Problem(f"{which}: leave them out, or train a model on them", True)]
    if "energy" not in fields:
        return [Problem("the data have no energies to train on: name them with --data Files --data.keys", True)]
    if config is None and "forces" not in fields:
        module.rho = 0.0
    costs, problems = cost.estimate(module, data, settings)
    facts |= {"training": costs} if costs else {}
    return problems
