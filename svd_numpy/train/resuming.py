"""How a run is stopped and continued: what a checkpoint holds, and what must be the same before it is read back."""

from __future__ import annotations

import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_count, check_number
from svd_numpy.files import checkpoint
from svd_numpy.files.safe_arrays import reading, require
from svd_numpy.kernels.backend import Array
from svd_numpy.network.objective import make_likelihood
from svd_numpy.train.trainer import Progress, Trainer


def identity(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """What a resumed run must have in common with the interrupted one to continue bit for bit."""
    return {
        "config": trainer.config.to_json(),
        "model": trainer.model_at_start,
        "data": {"name": trainer.data.name, "n_train": trainer.n_train, "sha256": trainer.data_hash},
    }


def save(trainer: Trainer, run_dir: Path, seconds: float) -> Path:
    """Write a checkpoint from which `restore` continues bit for bit."""
    state = {
        "progress": {**asdict(trainer.progress), "seconds": seconds},
        "likelihood": trainer.model.config()["likelihood"],  # an estimated std changes during training
        **identity(trainer),
    }
    return checkpoint.save(run_dir / "checkpoints", trainer.progress.step, trainer.arrays(), state)


def restore(trainer: Trainer, run_dir: Path) -> None:
    """Continue from the newest sound checkpoint in `run_dir`; model, data and configuration must be the same.

    The configuration may also be one that extends that of a finished run (`TrainConfig.extended`).
    """
    found = checkpoint.load(run_dir / "checkpoints")
    for part, wanted in identity(trainer).items():
        have = found.state.get(part, {})
        if not isinstance(have, dict):
            raise SvdValueError(f"resume: the run in {run_dir} has no {part}; use another run_dir")
        if part == "config" and (more := trainer.config.extends(have)):
            if found.step != (last := trainer.steps_per_epoch * (trainer.config.total_epochs - more)):
                raise SvdValueError(
                    f"resume: the run in {run_dir} is at step {found.step} of {last}; let it finish with its own "
                    f"settings before it is extended by {more} epochs"
                )
            continue
        if have != wanted:
            keys = sorted(k for k in {*have, *wanted} if have.get(k) != wanted.get(k))
            raise SvdValueError(
                f"resume: the run in {run_dir} has another {part} (differs in {keys}: "
                f"{[have.get(k) for k in keys]} there, {[wanted.get(k) for k in keys]} asked for); "
                "use the same settings, or another run_dir"
            )
    with reading(found.path):
        check_arrays(found.arrays, trainer.arrays())
        progress = _checked_progress(trainer, found)
        likelihood = make_likelihood(**found.state["likelihood"])
        require(likelihood.name == trainer.model.likelihood.name, f"the likelihood is {likelihood.name}")
    if found.skipped:
        warnings.warn(f"the run resumes from step {found.step}: {'; '.join(found.skipped)}", stacklevel=2)
    with trainer.model.exclusive:
        for name, array in trainer.arrays().items():
            array[...] = found.arrays[name]
        trainer.model.likelihood = likelihood
    trainer.progress = progress


def _checked_progress(trainer: Trainer, found: checkpoint.Checkpoint) -> Progress:
    """Return the progress in a checkpoint if this run can have made it."""
    stored = found.state["progress"]
    require(set(stored) == {field.name for field in fields(Progress)}, "progress has missing or unknown entries")
    last = trainer.steps_per_epoch * trainer.config.total_epochs
    check_count("step", stored["step"], low=0)
    require(stored["step"] == found.step, f"step is {stored['step']}, expected that of the folder, {found.step}")
    require(found.step <= last, f"step is {found.step}, expected at most {last}, the end of the run")
    check_number("nll_sum", stored["nll_sum"])
    for name in ("error_sum", "seconds"):
        require(check_number(name, stored[name]) >= 0, f"{name} is {stored[name]}, expected at least 0")
    done = min(found.step % trainer.steps_per_epoch * trainer.config.batch_size, trainer.n_train)
    examples = check_count("examples", stored["examples"], low=0)
    trainer.batches.begin(found.step)
    expected = trainer.batches.count(slice(done)) if done < trainer.n_train else 0
    require(examples == expected, f"examples is {examples}, expected {expected} in the epoch so far")
    return Progress(**stored)


def check_arrays(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    """Raise unless a checkpoint holds exactly the arrays of a run, with numbers that training can have made."""
    for name in found:
        require(name in wanted, f"unknown array {name!r}")
    for name, like in wanted.items():
        require(name in found, f"it lacks the array {name!r}")
        array = found[name]
        require(array.shape == like.shape, f"{name!r} has shape {array.shape}, expected {like.shape}")
        require(array.dtype == like.dtype, f"{name!r} has dtype {array.dtype}, expected {like.dtype}")
        require(bool(np.isfinite(array).all()), f"{name!r} is not finite everywhere")
    require(not (found["v"] < 0).any(), "'v' is negative somewhere; expected averages of squares")
    require(not (found["mask"] > 1).any(), "'mask' is neither 0 nor 1 somewhere")
