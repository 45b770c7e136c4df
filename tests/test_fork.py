"""A process that forks after it has computed: its children compute, or say why they cannot; they never hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

START = """
import multiprocessing, os, signal, threading
import numpy as np
import svd_numpy as svd

def network(backend):
    return svd.Sequential(svd.VariationalDense(40, 30), svd.ReLU(), svd.VariationalDense(30, 3), backend=backend)

def predict(_=None):
    return model.predict(x).tobytes()

def in_child(function):
    'Whether a forked child gets the result that the parent has; a child that hangs is ended by a signal.'
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        try:
            os._exit(0 if function() == expected else 1)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0

x = np.random.default_rng(0).standard_normal((3000, 40)).astype(np.float32)
"""


def run(code: str, **variables: str) -> str:
    variables = environment(NUMBA_NUM_THREADS="2", **variables)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", START + code],
        cwd=Path(__file__).parent, env=variables, text=True, capture_output=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_child_of_openmp_says_what_to_do() -> None:
    out = run(
        """
model = network("numba"); expected = predict()
import numba
if numba.threading_layer() != "omp":
    print("no OpenMP")
else:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        try:
            print(pool.map_async(predict, range(2)).get(30))
        except RuntimeError as error:
            print(isinstance(error, svd.SvdError), error)
    model = network("numpy"); expected = predict()
    print(in_child(predict), in_child(lambda: in_child(predict) and expected))
    small = svd.compress(network("numba"), backend="numba"); expected = small.predict(x[:1]).tobytes()
    print(in_child(lambda: small.predict(x[:1]).tobytes()), "on one thread")
""",
        NUMBA_THREADING_LAYER="default",
    )
    if out.strip() == "no OpenMP":
        pytest.skip("Numba has another threading layer here")
    first, second, third = out.splitlines()
    assert first.startswith("True this process was forked after Numba had started its OpenMP threads")
    assert all(word in first for word in ("spawn", "loky", "NUMBA_THREADING_LAYER=workqueue"))
    assert (second, third) == ("True True", "True on one thread")


def test_a_child_of_workqueue_computes_the_same_bits() -> None:
    code = 'model = network("numba"); expected = predict(); print(in_child(predict), in_child(predict))'
    assert run(code, NUMBA_THREADING_LAYER="workqueue").split() == ["True", "True"]


def test_a_child_forked_before_the_first_kernel_may_use_openmp() -> None:
    code = """
model = network("numba"); expected = b"computed"
print(in_child(lambda: predict() and expected), predict() == predict())
"""
    assert run(code, NUMBA_THREADING_LAYER="default").split() == ["True", "True"]


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_fork_while_another_thread_computes_does_not_hang(backend: str) -> None:
    code = f"""
model = network({backend!r}); expected = predict(); ended = threading.Event()
def work():
    while not ended.is_set():
        predict()
thread = threading.Thread(target=work); thread.start()
print(all([in_child(predict) for _ in range(12)]), predict() == expected)
with model.exclusive:
    print(in_child(predict))
ended.set(); thread.join(10)
"""
    assert run(code, NUMBA_THREADING_LAYER="workqueue").split() == ["True", "True", "True"]
