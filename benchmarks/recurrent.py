"""An LSTM with sparse weights, here and in PyTorch: milliseconds of a training step, microseconds of a letter.

    python benchmarks/recurrent.py                   # writes results/recurrent.json and recurrent.md
    python benchmarks/recurrent.py --model FILE      # letters with a network that train-text has written

Both sides do the same work: 65 letters, an LSTM whose weights are sampled once a batch, a dense layer by local
reparametrisation, KL, clipped gradients, Adam. Blocks of steps alternate in one process, on as many threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from machine import command_line, describe, one_line
from step import write
from torch import Tensor, nn
from torch_peers import log_uniform_kl

import svd_numpy as svd
from svd_numpy.kernels.backend import AdamSettings, StepSettings
from svd_numpy.network.layers.base import Pass

LETTERS, N_TRAIN, KL_WEIGHT, LR, CLIP, LOG_SIGMA2 = 65, 1_000_000, 0.5, 1e-3, 1.0, -6.0
VAR_FLOOR = 1e-8
Step = Callable[[], float]


def our_step(units: int, x: Any, y: Any) -> Step:
    """A training step of this package, without what `fit` does around it."""
    layers = (
        svd.VariationalLSTM(LETTERS, units, tokens=True, log_sigma2=LOG_SIGMA2),
        svd.VariationalDense(units, LETTERS, log_sigma2=LOG_SIGMA2),
    )
    model = svd.Sequential(*layers, backend="numba", input_shape=x.shape[1:])
    d_outputs, run = np.empty((*x.shape, LETTERS), np.float32), Pass(model.backend, training=True)

    def step() -> float:
        nll, _ = model.likelihood.loss(model.backend, model.forward(x, run), y, d_outputs)
        model.backward(d_outputs, run)
        model.backend.clip_gradients(model.arena, CLIP)
        run.step += 1
        settings = StepSettings(KL_WEIGHT / N_TRAIN, 0.0, AdamSettings(LR, 0.9, 0.999, 1e-8, run.step))
        model.backend.adam_step(model.arena, settings, False)
        return nll / y.size

    return step


class Sampled(nn.Module):
    """`nn.LSTM` with weights sampled once a batch, and a dense layer by local reparametrisation."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(LETTERS, units, batch_first=True)
        self.theta = nn.Parameter(torch.randn(units, LETTERS) * units**-0.5)
        self.bias = nn.Parameter(torch.zeros(LETTERS))
        gaussian = {name: p for name, p in self.lstm.named_parameters() if name.startswith("weight")}
        self.spread = nn.ParameterDict({name: torch.full_like(p, LOG_SIGMA2) for name, p in gaussian.items()})
        self.spread["dense"] = torch.full_like(self.theta, LOG_SIGMA2)

    def forward(self, x: Tensor) -> Tensor:
        weights = dict(self.lstm.named_parameters())
        for name, theta in list(weights.items()):
            if name in self.spread:
                weights[name] = theta + torch.exp(0.5 * self.spread[name]) * torch.randn_like(theta)
        one_hot = F.one_hot(x, LETTERS).float()
        hidden = torch.func.functional_call(self.lstm, weights, (one_hot,))[0].reshape(-1, self.theta.shape[0])
        var = (hidden * hidden) @ torch.exp(self.spread["dense"]) + VAR_FLOOR
        mean = torch.addmm(self.bias, hidden, self.theta)
        return mean + torch.sqrt(var) * torch.randn_like(mean)

    def kl(self) -> Tensor:
        own = dict(self.lstm.named_parameters()) | {"dense": self.theta}
        return torch.stack([log_uniform_kl(own[name], spread) for name, spread in self.spread.items()]).sum()


def torch_step(units: int, x: Any, y: Any, compiled: bool) -> Step:
    """The same in PyTorch."""
    model, x, y = Sampled(units), torch.as_tensor(x), torch.as_tensor(y.ravel())
    optimiser = torch.optim.Adam(model.parameters(), LR, fused=True)

    def forward() -> Tensor:
        return F.cross_entropy(model(x), y)

    evaluate = torch.compile(forward) if compiled else forward

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        nll = evaluate()
        nll.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        (KL_WEIGHT / N_TRAIN * model.kl()).backward()
        optimiser.step()
        return float(nll.detach())

    return step


def our_letter(model: svd.Sequential) -> Step:
    """One letter through the compact network."""
    small, place = svd.compress(model), cycle(np.random.default_rng(0).integers(0, LETTERS, 997).tolist())
    small.reset()
    return lambda: float(small.step(next(place))[0])


def torch_letter(model: svd.Sequential, scripted: bool) -> Step:
    """One letter through the dense network with `nn.LSTM`, at batch 1."""
    units = model.layers[0].out_shape[-1]
    lstm, dense = nn.LSTM(LETTERS, units), nn.Linear(units, LETTERS)
    state = {name: torch.as_tensor(array) for name, array in svd.torch_state_dict(model).items()}
    lstm.load_state_dict({name[2:]: array for name, array in state.items() if name.startswith("0.")})
    dense.load_state_dict({name[2:]: array for name, array in state.items() if name.startswith("1.")})
    inputs = torch.eye(LETTERS).reshape(LETTERS, 1, 1, LETTERS)
    place = cycle(np.random.default_rng(0).integers(0, LETTERS, 997).tolist())
    carried = torch.zeros(1, 1, units), torch.zeros(1, 1, units)
    run = torch.jit.trace(lstm, (inputs[0], carried)) if scripted else lstm

    @torch.inference_mode()
    def step() -> float:
        nonlocal carried
        y, carried = run(inputs[next(place)], carried)
        return float(dense(y)[0, 0, 0])

    return step


def alternate(steps: dict[str, Step], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Time blocks of each candidate in turn: seconds per step."""
    for step in steps.values():
        for _ in range(3):
            step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            count, start = 0, time.perf_counter()
            while (taken := time.perf_counter() - start) < seconds:
                step()
                count += 1
            found[name].append(taken / count)
    return found


def table(title: str, found: dict[str, list[float]], unit: float, name: str) -> tuple[str, list[dict[str, Any]]]:
    """One table: median, best, and the ratio of each block to ours in the same round."""
    ours = next(iter(found.values()))
    rows = [
        {
            "candidate": candidate, f"median {name}": round(unit * statistics.median(times), 2),
            f"min {name}": round(unit * min(times), 2),
            "this / ours": round(statistics.median(t / o for t, o in zip(times, ours, strict=True)), 2),
        }
        for candidate, times in found.items()
    ]  # fmt: skip
    keys = list(rows[0])
    lines = [f"## {title}", "", "| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join([*lines, ""]), [{"table": title, **row} for row in rows]


def candidates(options: argparse.Namespace) -> list[tuple[str, dict[str, Step], float, str]]:
    """What is timed: title, steps by candidate, the unit as a share of a second, and its name."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, LETTERS, (options.batch, options.steps)) for _ in range(2))
    training: dict[str, Step] = {
        "svd_numpy": our_step(options.units, x, y), "torch nn.LSTM": torch_step(options.units, x, y, False)
    }  # fmt: skip
    if options.compile:
        training["torch compile"] = torch_step(options.units, x, y, True)
    found = [(f"Training step, LSTM-{options.units}, {options.batch} x {options.steps}", training, 1e3, "ms")]
    if options.model is not None:
        model = svd.Sequential.load(options.model)
        letters = {
            "svd_numpy compact": our_letter(model), "torch nn.LSTM, dense": torch_letter(model, False),
            "torch nn.LSTM, dense, traced": torch_letter(model, True),
        }  # fmt: skip
        kept = svd.measure_sparsity(model)
        found.append((f"One letter at batch 1, {kept.compression:.1f} times fewer weights", letters, 1e6, "us"))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a block")
    parser.add_argument("--compile", action="store_true", help="time torch.compile, too")
    parser.add_argument("--model", type=Path, help="model.safetensors of a finished run")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args(arguments)
    text, rows = list[str](), list[dict[str, Any]]()
    for threads in options.threads:
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
        for title, steps, unit, name in candidates(options):
            title = f"{title}, {threads} thread{'s' * (threads > 1)}"
            more, more_rows = table(title, alternate(steps, options.rounds, options.seconds), unit, name)
            text, rows = [*text, more], rows + more_rows
            print(more, flush=True)
    facts = {"machine": describe(), "torch": torch.__version__, "command": command_line()}
    head = f"# Recurrent networks\n\n* Machine: {one_line(facts['machine'])}\n* Command: {command_line()}\n"
    write(options.out, "recurrent", "\n".join([head, *text]), rows, facts)


if __name__ == "__main__":
    main()
