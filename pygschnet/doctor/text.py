"""The facts for people: aligned, short, problems last."""

import textwrap
from datetime import timedelta
from typing import Any

from pygschnet.datasets import info


def as_text(facts: dict[str, Any]) -> str:
    """All facts, and a line for each problem.

    Args:
        facts: as `doctor` collects them.
    """
    blocks = [[_row(name, value) for name, value in facts["versions"].items()], _machine(facts)]
    blocks += [_model(facts["model"])] if "model" in facts else []
    blocks += [info.as_text(facts["data"]).splitlines()] if "data" in facts else []
    blocks += [_training(facts["training"])] if "training" in facts else []
    lines = [f"{'BROKEN' if each['broken'] else 'NOTE'} {each['text']}" for each in facts["problems"]]
    return "\n\n".join("\n".join(block) for block in [*blocks, lines or ["nothing is wrong"]])


def _machine(facts: dict[str, Any]) -> list[str]:
    cpu, gpus = facts["devices"]["cpu"], facts["devices"]["gpus"]
    lines = [_row("CPU", f"{cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads, {_size(cpu['megabytes'])}")]
    lines += [_row("GPU", f"{gpu['name']}, {_size(gpu['megabytes'])}") for gpu in gpus] or [_row("GPU", "none")]
    for name, known in facts["kernels"].items():
        off = max(known["off"].values()) if "off" in known else None
        state = known.get("why", "failing" if off is None else f"off by {off:.0e} at most")
        lines.append(_row(name, f"{known['by']}: {state}"))
    return [*lines, _row("edges", facts["edges"])]


def _model(model: dict[str, Any]) -> list[str]:
    lines = [
        _row("model", f"{model['path']}, format {model['format']}, written by pygschnet {model['version']}"),
        *_part("", model["representation"]),
        *_part("", model["head"]),
    ]
    for name, head in model["properties"].items():
        lines += _part(f"{name}: ", head)
    cutoff = "none, all pairs" if model["cutoff"] is None else f"{model['cutoff']:g} Å"
    units = ", ".join(f"{name} {model['units'][name]}" for name in ("energy", "forces", "stress", "pos"))
    lines += [
        _row("parameters", f"{model['parameters']:,} in {model['dtype']}"),
        _row("trained on", ", ".join(model["elements"]) or "nothing"),
        _row("cutoff", cutoff),
        _row("units", units),
    ]
    summary = model["summary"]
    for stage in ("validation", "test"):
        errors = [
            f"{name.replace('_', ' ')} {e['value']:.4g} {e['unit']}" for name, e in summary.get(stage, {}).items()
        ]
        lines += [_row(stage, ", ".join(errors))] if errors else []
    if "steps" in summary:
        lines.append(
            _row(
                "training",
                f"{summary['steps']:,} steps in {_time(float(summary['wall_time_s']))} on {summary['device']}",
            )
        )
    if "data" in summary:
        lines.append(_row("data", f"{summary['data']['class']}, {', '.join(summary['data']['files'])}"))
    return lines


def _part(prefix: str, part: dict[str, Any]) -> list[str]:
    """A class and those of its settings that say something."""
    settings = ", ".join(f"{name} {value}" for name, value in part["init_args"].items() if value is not None)
    return [_row(part["class_path"].rpartition(".")[2], prefix + settings)]


def _training(training: dict[str, Any]) -> list[str]:
    step, epoch = 1000 * training["seconds per step"], training["steps per epoch"]
    size = f"{training['atoms per step']:.0f} atoms and {training['pairs per step']:.0f} pairs"
    lines = [
        _row("a step", f"{step:.1f} ms on {training['device']}, measured, {size}"),
        _row(
            "an epoch",
            f"{_time(training['seconds per epoch'])}, {epoch:,} steps, {training['structures']:,} structures",
        ),
    ]
    if "seconds per validation" in training:
        lines.append(_row("a validation", _time(training["seconds per validation"])))
    if "seconds" in training:
        validations = training["validations"]
        of = f"{training['steps']:,} steps and {validations:,} validation{'s' if validations != 1 else ''}"
        lines.append(_row("the training", f"{_time(training['seconds'])}, {of}"))
    needed = training["megabytes"]
    text = "unknown for this representation" if needed is None else f"about {needed:.0f} MB a step"
    return [*lines, _row("memory", f"{text}, of {_size(training['megabytes there'])}")]


def _row(name: str, value: str) -> str:
    return f"{name:<18}" + f"\n{'':18}".join(textwrap.wrap(value, 102))


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:,.0f} GB"


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else str(timedelta(seconds=round(seconds)))
