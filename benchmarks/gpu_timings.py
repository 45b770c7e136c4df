"""The sections of `gpu_check.py` that take times, in tables beside PyTorch's and cuBLAS's."""

from __future__ import annotations

import math
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from gpu_section import Section, distance, import_torch, in_short

BATCH = {"LeNet-300-100": 100, "LeNet-5": 100, "VGG-like": 100}
RUNS = (1, 4, 16)
# Networks whose launches are timed one by one, and how many runs side by side.
TAKEN_APART = (("LeNet-300-100", 1), ("LeNet-300-100", 16), ("LeNet-5", 1), ("VGG-like", 1))


def seconds_of(work: Callable[[], object], wait: Callable[[], object], budget: float = 1.0) -> float:
    """Median seconds of a call, over blocks that are long enough to time; `wait` lets the device finish."""
    work()
    wait()
    started = time.perf_counter()
    work()
    wait()
    calls = max(1, int(0.05 / max(1e-6, time.perf_counter() - started)))
    blocks, ends = [], time.perf_counter() + budget
    while len(blocks) < 3 or time.perf_counter() < ends:
        started = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        blocks.append((time.perf_counter() - started) / calls)
    return statistics.median(blocks)


@cache
def data_of(arch: str) -> tuple[Any, str]:
    """The workload's images as a data set, and what they are."""
    from workload import TASKS, load_workload

    from svd_numpy.data import Dataset

    work, shape = load_workload(arch, floats=False), TASKS[arch].image_shape
    some = work.images[:100], work.labels[:100]
    return Dataset("workload", work.images, work.labels, *some, shape, 10, ""), work.description


def trainer_of(section: Section, network: str, seed: int = 0) -> Any:
    """Make a trainer on the workload's images, theta started as in the peers; of a trial, a tiny one."""
    from dataclasses import replace

    from workload import INITIAL_LOG_SIGMA2

    import svd_numpy as svd
    from svd_numpy.data import Dataset
    from svd_numpy.experiments import architectures
    from svd_numpy.experiments.recipes import get_recipe
    from svd_numpy.train.config import TrainConfig
    from svd_numpy.train.trainer import Trainer

    if section.trial:
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 256, (4, 5), dtype=np.uint8), np.array([0, 1, 1, 0])
        data, batch = Dataset("trial", x, y, x, y, None, 2, ""), 2
        layers = svd.VariationalDense(5, 3), svd.ReLU(), svd.VariationalDense(3, 2)
        model = svd.Sequential(*layers, backend="cuda", seed=seed)
    else:
        arch, batch = network.lower(), BATCH[network]
        data, section.raw["data"] = data_of(arch)
        recipe = replace(get_recipe("lenet-5", "paper"), arch=arch, theta_std=None, log_sigma2=INITIAL_LOG_SIGMA2)
        model = architectures.build(data, recipe, seed, "cuda")
    return Trainer(model, data, TrainConfig(epochs=10_000, batch_size=batch, seed=seed))


def advance_to(runner: Any, trainer: Any, step: int) -> None:
    """Go on until so many steps are done, and fetch what they wrote."""
    while trainer.progress.step < step:
        left = trainer.steps_per_epoch - trainer.progress.step % trainer.steps_per_epoch
        runner.advance(min(left, step - trainer.progress.step))
    runner.sync()


def recorded(trainers: list[Any]) -> Any:
    """Make a runner that has recorded a step; raise where it cannot."""
    from svd_numpy.train.runner import make_runner

    runner = make_runner(trainers)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runner.advance(1)
    if runner.recordings[False] is None:
        raise RuntimeError("; ".join(str(one.message) for one in said) or "the step could not be recorded")
    return runner


def launches_of(runner: Any) -> list[Any]:
    """The launches of its recorded step but the clock's, which would go on beyond the tables of an epoch."""
    return [launch for launch in runner.recordings[False].launches if launch.kernel.name != "tick"]


def recorded_seconds(section: Section, trainers: list[Any]) -> float:
    """Seconds of a step of all runs that is recorded and played."""
    trainer, runner = trainers[0], recorded(trainers)
    enough, budget = (4, 0.0) if section.trial else (200, 2.0)
    advance_to(runner, trainer, enough)
    runner.advance(1)  # sends the weights again, after they were fetched
    start, started = trainer.progress.step, time.perf_counter()
    while trainer.progress.step == start or time.perf_counter() < started + budget:
        runner.advance(trainer.steps_per_epoch - trainer.progress.step % trainer.steps_per_epoch)
    return (time.perf_counter() - started) / (trainer.progress.step - start)  # `advance` returns when they are done


def steps(section: Section, network: str) -> None:
    """Microseconds of a step, ours as it is and recorded, and PyTorch's."""
    from svd_numpy.kernels.cuda.device import cuda

    micros = section.raw["micros"] = {}
    section.line(f"Batch {BATCH[network]}.", "", "| who | µs a step |", "|---|--:|")

    def enter(who: str, measure: Callable[[], float]) -> None:
        try:
            micros[who] = 1e6 * measure()
            section.line(f"| {who} | {micros[who]:.0f} |")
        except Exception as error:
            micros[who] = traceback.format_exc()
            section.line(f"| {who} | not done: {in_short(error)} |")

    def ours() -> float:
        return seconds_of(trainer_of(section, network).step, cuda.synchronize)

    def peer(way: str, tf32: bool) -> float:
        torch = import_torch(tf32)
        import gpu_torch

        return seconds_of(gpu_torch.make_step(network.lower(), BATCH[network], way), torch.cuda.synchronize)

    enter("svd_numpy, recorded", lambda: recorded_seconds(section, [trainer_of(section, network)]))
    enter("svd_numpy, step by step", ours)
    by_hand = ("by hand",) if network == "LeNet-300-100" else ()
    for way in ("eager", "graph", *by_hand, "compile"):  # the slowest to start comes last
        enter(f"PyTorch, {way}", lambda way=way: peer(way, False))
        if way == "graph":
            enter("PyTorch, graph, TF32", lambda: peer("graph", True))
    section.line("", f"Data: {section.raw.get('data', 'made up')}.")


def played_seconds(launches: Sequence[Any], copies: int, budget: float) -> float:
    """Seconds that launches take in a recording of so many copies of them."""
    from svd_numpy.kernels.cuda.device import cuda
    from svd_numpy.kernels.cuda.recording import Recording

    recording = Recording()

    def work() -> None:
        for launch in [*launches] * copies:
            recording.add(launch)

    recording.record(work)
    return seconds_of(recording.play, cuda.synchronize, budget) / copies


def launches(section: Section) -> None:
    """Where the time of a recorded step goes: each of its launches, many times alone."""
    found = section.raw.setdefault("micros", {})
    copies, budget = (1, 0.0) if section.trial else (20, 0.1)
    for network, runs in TAKEN_APART[:2] if section.trial else TAKEN_APART:
        trainers = [trainer_of(section, network, seed) for seed in range(2 if section.trial and runs > 1 else runs)]
        steps = launches_of(recorded(trainers))
        whole = 1e6 * played_seconds(steps, 1, budget)
        rows = [(step.kernel.name, step.blocks, step.threads, 1e6 * played_seconds([step], copies, budget))
                for step in steps]  # fmt: skip
        found[f"{network} x {runs}"] = {"whole": whole, "launches": rows}
        section.line(
            f"### {network}, {runs} run{'s' if runs > 1 else ''}: {whole:.0f} µs, {len(rows)} launches", "",
            "| kernel | blocks | threads | µs |", "|---|--:|--:|--:|",
            *(f"| {name} | {blocks} | {threads} | {micros:.2f} |" for name, blocks, threads, micros in rows), "",
        )  # fmt: skip


def training(section: Section) -> None:
    """LeNet-300-100 for the paper's 200 epochs, end to end."""
    from svd_numpy import train_mnist
    from svd_numpy.kernels.cuda.device import SIMULATED

    if SIMULATED:
        section.line("Skipped: the simulator would take days.")
        return
    epochs = 2 if section.trial else 200
    started = time.perf_counter()
    train_mnist(recipe="paper", epochs=1, backend="cuda", eval_every=0, progress=False)  # compiles every kernel
    first = time.perf_counter() - started
    result = train_mnist(recipe="paper", epochs=epochs, backend="cuda", eval_every=0, progress=False)
    last = result.history[-1]
    section.raw |= {"epochs": epochs, "seconds": last["seconds"], "seconds_to_start": first, "data": result.data.name}
    section.raw |= {name: last[name] for name in ("nll", "test_error", "compression", "sparsity")}
    section.line(
        f"{epochs} epochs on {result.data.name}: {last['seconds']:.1f} s (loading, compiling and one epoch before: "
        f"{first:.1f} s); test error {100 * last['test_error']:.2f} %, compression {last['compression']:.1f}."
    )


def replicas(section: Section) -> None:
    """Steps of 1, 4 and 16 runs in the same launches; whether their bits are those of each alone; a series of seeds."""
    from svd_numpy import train_mnist
    from svd_numpy.kernels.cuda.device import SIMULATED
    from svd_numpy.train.runner import make_runner

    def led(seeds: range) -> list[Any]:
        return [trainer_of(section, "LeNet-300-100", seed) for seed in seeds]

    def after(trainers: list[Any], count: int) -> list[Any]:
        runner = make_runner(trainers)
        advance_to(runner, trainers[0], count)
        params = [trainer.model.arena.params.tobytes() for trainer in trainers]
        return list(zip(params, runner.scores(), strict=True))

    count = 3 if section.trial else 150
    alone = [after(led(range(seed, seed + 1)), count)[0] for seed in range(3)]
    section.raw["same_bits"] = after(led(range(3)), count) == alone
    same = "the same bits" if section.raw["same_bits"] else "**OTHER BITS**"
    section.line(f"Three runs after {count} steps side by side: {same} as each alone, and the same scores.", "")
    section.line("| runs | µs a step of all | times one |", "|--:|--:|--:|")
    micros = section.raw["micros"] = {}
    for runs in (1, 2) if section.trial else RUNS:
        micros[str(runs)] = 1e6 * recorded_seconds(section, led(range(runs)))
        section.line(f"| {runs} | {micros[str(runs)]:.0f} | {micros[str(runs)] / micros['1']:.2f} |")
    if not section.trial:
        section.raw["ratio"] = micros["16"] / micros["1"]
    if SIMULATED:
        section.line("", "Whole runs skipped: the simulator would take days.")
        return
    epochs = 5
    per_epoch = section.raw["seconds_per_epoch"] = {}
    for runs in (1, 16):
        options: dict[str, Any] = {"recipe": "paper", "epochs": epochs, "eval_every": 0, "progress": False}
        history = train_mnist(seeds=range(runs), backend="cuda", **options)[0].history
        # The first epoch records, the last one measures the test error.
        per_epoch[str(runs)] = (history[-2]["seconds"] - history[0]["seconds"]) / (epochs - 2)
    section.line(
        "", f"`train_mnist(seeds=range(16))`: {per_epoch['16']:.3f} s an epoch, with its record; of one run "
        f"{per_epoch['1']:.3f} s.",
    )  # fmt: skip


def fused_products(size: int) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Role, name of the tile, and a launch of each fused product of size x size x size."""
    from svd_numpy.kernels.cuda import tables
    from svd_numpy.kernels.cuda.device import U, cuda
    from svd_numpy.kernels.cuda.dials import DIALS
    from svd_numpy.kernels.cuda.product import PRODUCTS
    from svd_numpy.kernels.cuda.tiling import TILES

    rng = np.random.default_rng(0)
    a, b, c, d = (cuda.to_device(rng.standard_normal(size * size, np.float32)) for _ in range(4))
    s = cuda.to_device(rng.uniform(-8, 0, size * size).astype(np.float32))
    y, r = (cuda.device_array(size * size, np.float32) for _ in range(2))
    common = cuda.to_device(np.zeros(2, np.uint32)), cuda.to_device(np.zeros(2, np.uint32))  # clock, seed
    words, dials = tuple(U(v) for v in range(5)), cuda.to_device(np.zeros(int(DIALS), np.float32))
    operands = {"forward": (a, a, b, s), "inputs": (a, c, b, s), "weights": (a, a, c, d)}
    for role, (a1, a2, b1, b2) in operands.items():
        at = getattr(tables, role)(size, size, size, None)
        row, column, starts = (cuda.to_device(table) for table in (at.row, at.column, at.b))
        sizes = tuple(U(v) for v in (size, size, size, size, 1, 0))
        args = (a1, a2, row, column, b1, b2, starts, U(at.b_step), sizes, y, r, b, dials, words, *common)
        for name, tile in TILES.items():
            grid, kernel = (math.ceil(size / tile.bm), math.ceil(size / tile.bn)), PRODUCTS[role, True, False, name]
            yield role, name, partial(kernel.launch, grid, tile.threads, args)


def products(section: Section) -> None:
    """The fused products at one large size, with every tile; and cuBLAS for the same work, in float32 and in TF32."""
    from svd_numpy.kernels.cuda.device import cuda
    from svd_numpy.kernels.cuda.tiling import TILES

    size, rows = 8 if section.trial else 4096, section.raw.setdefault("rows", {})
    section.line(
        f"{size}³, counting 4 M N K operations; error against float64, of the pair.", "",
        "| what | ms | TFLOP/s | error |", "|---|--:|--:|--:|",
    )  # fmt: skip

    def enter(name: str, seconds: float, error: float | None = None) -> None:
        rows[name] = {"ms": 1e3 * seconds, "tflops": 4 * size**3 / seconds / 1e12, "error": error}
        shown = "" if error is None else f"{error:.1e}"
        section.line(f"| {name} | {1e3 * seconds:.3f} | {rows[name]['tflops']:.1f} | {shown} |")

    for role, name, work in fused_products(size):
        enter(f"{role}, {name} tile {tuple(TILES[name])}", seconds_of(work, cuda.synchronize))
    try:
        torch = import_torch()
    except (ImportError, RuntimeError) as error:
        section.raw["skipped"] = str(error)
        section.line("", f"cuBLAS, in float32 and in TF32, skipped: it is reached through PyTorch ({error}).")
        return
    x, theta = (torch.randn(size, size, device="cuda") for _ in range(2))
    sigma2, mean, var = torch.rand(size, size, device="cuda"), torch.empty_like(x), torch.empty_like(x)
    exact = x.double() @ theta.double(), (x * x).double() @ sigma2.double()

    def two_products() -> None:
        torch.mm(x, theta, out=mean)
        torch.mm(x * x, sigma2, out=var)

    for name, tf32 in (("two cuBLAS SGEMMs and the squaring", False), ("the same in TF32", True)):
        import_torch(tf32)
        seconds = seconds_of(two_products, torch.cuda.synchronize)
        pairs = zip((mean, var), exact, strict=True)
        enter(name, seconds, float(np.max([float((got - want).norm() / want.norm()) for got, want in pairs])))


def ladder(section: Section) -> None:
    """Time the rungs of `cuda_ladder.py`; the last is in the section on products."""
    import cuda_ladder

    from svd_numpy.kernels.cuda.device import cuda

    size, found = 8 if section.trial else 2048, section.raw.setdefault("rows", {})
    small = (5, 6, 3) if section.trial else (13, 21, 9)
    section.line(f"{size}³.", "", "| rung | error | ms | TFLOP/s |", "|---|--:|--:|--:|")
    for name in cuda_ladder.RUNGS:
        rng = np.random.default_rng(0)
        m, n, k = small
        x, b1, b2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n), (k, n)))
        arrays = [cuda.to_device(v.ravel()) for v in (x, b1, b2)]
        outs = [cuda.to_device(np.full(m * n, np.nan, np.float32)) for _ in range(2)]
        cuda_ladder.run(name, small, (*arrays, *outs))
        x, b1, b2 = (v.astype(np.float64) for v in (x, b1, b2))
        error = distance((out.copy_to_host().reshape(m, n) for out in outs), (x @ b1, (x * x) @ b2))
        large = [cuda.to_device(rng.standard_normal(size * size).astype(np.float32)) for _ in range(5)]
        seconds = seconds_of(
            lambda rung=name, v=tuple(large): cuda_ladder.run(rung, (size,) * 3, v), cuda.synchronize,
            0.0 if section.trial else 0.5,
        )  # fmt: skip
        found[name] = {"error": error, "ms": 1e3 * seconds, "tflops": 4 * size**3 / seconds / 1e12}
        section.line(f"| {name} | {error:.1e} | {1e3 * seconds:.3f} | {found[name]['tflops']:.2f} |")
