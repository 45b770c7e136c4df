"""Training on several processes: the same bits whatever their number, and what happens when one of them fails."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import ROOT, environment
from rank_jobs import KINDS, configuration, crc, few_digits, network, train
from small_runs import N_IN, bits, make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy.train.ranks import Ranks

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
MOST_SECONDS = 240  # four ranks may have to compile their kernels, on two cores

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="mpi4py and mpiexec are needed: pip install 'svd-numpy[mpi]'",
)


def start(ranks: int, *words: str, launcher: tuple[str, ...] = ("-m", "mpi4py")) -> subprocess.CompletedProcess[str]:
    """Run a Python command on so many ranks."""
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, *launcher, *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=MOST_SECONDS)


def job(ranks: int, kind: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a job of rank_jobs.py on so many ranks."""
    return start(ranks, str(ROOT / "tests" / "rank_jobs.py"), kind, str(folder), *words)


def ends(folder: Path) -> list[str]:
    """What each rank had at the end of a job."""
    return [path.read_text() for path in sorted(folder.parent.glob(f"{folder.name}-rank*"))]


# ------------------------------------------------------------ the same bits


@needs_mpi
@pytest.mark.parametrize("kind", KINDS)
def test_one_two_and_four_ranks_give_the_bits_of_a_process_without_mpi(kind: str, tmp_path: Path) -> None:
    alone = train(kind, None, False, "")
    for ranks in (1, 2, 4):
        folder = tmp_path / str(ranks)
        done = job(ranks, kind, folder)
        assert done.returncode == 0, done.stderr
        assert ends(folder) == [alone] * ranks


@needs_mpi
@pytest.mark.parametrize("mishap", ["kill", "raise"])
def test_a_rank_that_fails_ends_all_and_another_number_of_ranks_goes_on(mishap: str, tmp_path: Path) -> None:
    alone, folder = train("dense", None, False, ""), tmp_path / "run"
    began = time.monotonic()
    failed = job(4, "dense", folder, mishap)
    assert failed.returncode != 0 and ends(folder) == []
    assert time.monotonic() - began < MOST_SECONDS / 2  # nobody waits for the rank that is gone
    assert ("rank 1 fails" in failed.stderr) == (mishap == "raise")
    steps = sorted(int(path.name.split("-")[-1]) for path in (folder / "checkpoints").iterdir() if path.is_dir())
    assert 0 < steps[-1] < 42  # it goes on in the middle
    done = job(2, "dense", folder, "resume")
    assert done.returncode == 0, done.stderr
    assert ends(folder) == [alone] * 2


@needs_mpi
def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_saves_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stopped = job(2, "conv", folder, "stop")
    assert stopped.returncode != 0 and "training stopped by SIGTERM" in stopped.stderr
    model = network("conv", backend="numba")
    svd.fit(model, few_digits(), configuration("conv"), run_dir=folder, resume=True, progress=False)  # one process
    assert crc(model) == train("conv", None, False, "")


@needs_mpi
def test_the_command_line_trains_on_ranks_as_in_one_process(tmp_path: Path) -> None:
    words = ["train", "--dataset", "digits", "--recipe", "small", "--epochs", "2", "--shards", "2"]
    words += ["--backend", "numpy"]
    folders = [tmp_path / "one", tmp_path / "two"]
    one = start(1, "-m", "svd_numpy", *words, "--run-dir", str(folders[0]), launcher=())
    two = start(2, "-m", "svd_numpy", *words, "--ranks", "--run-dir", str(folders[1]))
    assert one.returncode == two.returncode == 0, two.stderr
    assert two.stdout.count("this run") == two.stdout.count("epoch    1/") == 1  # only rank 0 speaks
    first, second = (folder / "model.safetensors" for folder in folders)
    assert first.read_bytes() == second.read_bytes()
    again = start(2, "-m", "svd_numpy", *words, "--ranks", "--resume", "--run-dir", str(folders[1]))
    assert again.returncode == 0 and "had already finished" in again.stdout, again.stderr


# ------------------------------------------------------------ shards, in one process


@pytest.mark.parametrize(
    "changes",
    [{}, {"train_mask": True}, {"clip_norm": 0.05}, {"remove_above": 1.0, "finetune_threshold": 1.0}],
    ids=["plain", "mask", "clip", "removal"],
)
def test_shards_change_nothing_but_the_order_of_sums(changes: dict[str, Any]) -> None:
    assert_same_up_to_rounding(
        lambda: make_net(dtype="float64"), make_config(**changes), make_config(**changes, shards=4)
    )


def test_shards_of_a_network_with_batch_norm_and_gates_change_nothing_but_the_order_of_sums() -> None:
    def net() -> svd.Sequential:
        return svd.Sequential(
            svd.BatchNorm(N_IN, affine=False), svd.VariationalDense(N_IN, 8, bias=False),
            svd.BatchNorm(8, momentum=None), svd.ReLU(), svd.Gate(8, "hard-concrete"), svd.GaussianDropout(0.2),
            svd.Dense(8, 6, bias=False), svd.BatchNorm(6), svd.Gate(6), svd.Dense(6, 3),
            input_shape=(N_IN,), backend="numpy", dtype="float64",
        )  # fmt: skip

    assert_same_up_to_rounding(net, make_config(), make_config(shards=8))


def test_shards_of_a_convolutional_network_change_nothing_but_the_order_of_sums() -> None:
    config = configuration("conv", epochs=2)
    plain, cut = (network("conv", backend="numpy", dtype="float64") for _ in range(2))
    svd.fit(plain, few_digits(), configuration("conv", epochs=2, shards=1), progress=False)
    svd.fit(cut, few_digits(), config, progress=False)
    for name, array in plain.arrays().items():
        np.testing.assert_allclose(cut.arrays()[name], array, rtol=1e-7, atol=1e-9, err_msg=name)


def assert_same_up_to_rounding(net: Any, plain: svd.TrainConfig, cut: svd.TrainConfig) -> None:
    """Train the same network twice, on examples with weights, and compare."""
    data = make_data()
    weights = np.random.default_rng(0).integers(0, 3, len(data.y_train)).astype(float)
    data = svd.Dataset(**{**vars(data), "weights": weights})
    models = net(), net()
    histories = [svd.fit(m, data, c, progress=False) for m, c in zip(models, (plain, cut), strict=True)]
    assert histories[0][0]["kl"] == pytest.approx(histories[1][0]["kl"], rel=1e-9)  # counted once
    for name, array in models[0].arrays().items():
        np.testing.assert_allclose(models[1].arrays()[name], array, rtol=1e-7, atol=1e-9, err_msg=name)


def test_a_pruning_method_works_on_shards() -> None:
    def net() -> svd.Sequential:
        return svd.Sequential(svd.Dense(N_IN, 8), svd.ReLU(), svd.Dense(8, 3), backend="numpy", dtype="float64")

    settings = {"epochs": 4, "batch_size": 25, "pruning": svd.GradualMagnitude(start=0, stop=3, sparsity=0.5)}
    assert_same_up_to_rounding(net, svd.TrainConfig(**settings), svd.TrainConfig(**settings, shards=2))


# ------------------------------------------------------------ refused


class _Three(Ranks):
    size = 3


@pytest.mark.parametrize(
    ("ranks", "changes", "words"),
    [
        (_Three(), {"shards": 4}, "got 4 for 3 ranks, expected a power of two that is a multiple"),
        (_Three(), {}, "got 1 for 3 ranks"),
        (Ranks(), {"shards": 16}, "the smallest batch has 10 of the 110 examples"),
        (Ranks(), {"shards": 3}, "got 3, expected a power of two"),
        (3, {}, "expected a Ranks"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_changes(ranks: Any, changes: Any, words: str) -> None:
    model = make_net()
    before = bits(model)
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
        svd.fit(model, make_data(), make_config(**changes), ranks=ranks, progress=False)
    assert bits(model) == before


def test_recurrent_networks_are_refused() -> None:
    model = svd.Sequential(
        svd.Embedding(5, 3), svd.LSTM(3, 4, every_step=False), svd.Dense(4, 2), input_shape=(6,), backend="numpy"
    )
    tokens, y = np.zeros((20, 6), np.int64), np.zeros(20, np.int64)
    data = svd.Dataset("own", tokens, y, tokens, y, None, 2, "made here")
    with pytest.raises(svd.SvdValueError, match=r"batches of layers \[.*\] cannot be cut yet"):
        svd.fit(model, data, svd.TrainConfig(epochs=1, batch_size=10, shards=2), progress=False)


def test_several_seeds_on_several_ranks_are_refused() -> None:
    with pytest.raises(svd.SvdValueError, match="several seeds or KL weights, expected one run"):
        svd.train_mnist(dataset="digits", seeds=(0, 1), shards=4, ranks=_Three())


def test_a_run_with_other_shards_is_not_resumed(tmp_path: Path) -> None:
    svd.fit(make_net(), make_data(), make_config(shards=2), run_dir=tmp_path, progress=False)
    with pytest.raises(svd.SvdValueError, match="shards"):
        svd.fit(make_net(), make_data(), make_config(shards=4), run_dir=tmp_path, resume=True, progress=False)


@needs_mpi
def test_ranks_without_the_launcher_are_refused_where_a_failing_one_would_leave_the_others_waiting() -> None:
    refused = start(2, "-c", "import svd_numpy as svd; svd.join_ranks()", launcher=())
    assert refused.returncode != 0 and "without mpi4py's launcher" in refused.stderr


@needs_mpi
def test_ranks_with_different_data_are_refused() -> None:
    code = (
        "from small_runs import *\nranks = svd.join_ranks()\n"
        "svd.fit(make_net(), make_data(seed=ranks.rank), make_config(shards=2), ranks=ranks, progress=False)"
    )
    refused = start(2, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n{code}")
    assert refused.returncode != 0 and "rank 1 has another model, other data" in refused.stderr
