"""A dense network of emlearn's, measured as `c_export.py` measures ours.

emlearn (pip install emlearn) writes scikit-learn's networks as C with floats. This one has one small hidden layer,
because all its weights take four bytes each; it is trained until held-out training images get no better.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import svd_numpy as svd

HIDDEN, HELD_OUT = 32, 0.1
HEADER = """\
#include <stdint.h>
#define NET_INPUTS 784
#define NET_OUTPUTS 10
typedef int32_t net_score;
extern float net_input[NET_INPUTS];
unsigned net_run(net_score scores[NET_OUTPUTS]);
"""
SOURCE = """\
#include "net.h"
#include "peer.h"
float net_input[NET_INPUTS];
unsigned net_run(net_score scores[NET_OUTPUTS])
{
    const unsigned best = (unsigned)peer_predict(net_input, NET_INPUTS);
    for (unsigned i = 0; i < NET_OUTPUTS; i++) {
        scores[i] = i == best;
    }
    return best;
}
"""


def write_emlearn(data: svd.Dataset, folder: Path) -> tuple[str, np.ndarray]:
    """Train, write C with the interface of ours, and return a name and the classes of all test images."""
    with np.errstate():  # its import lets NumPy raise at every underflow
        import emlearn
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((HIDDEN,), early_stopping=True, validation_fraction=HELD_OUT, max_iter=40, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # if it has not converged
        model.fit(data.x_train.reshape(len(data.x_train), -1) / np.float32(255), data.y_train)
    classes = model.predict(data.x_test.reshape(len(data.x_test), -1) / np.float32(255))
    model.coefs_[0] /= 255  # reads pixels from 0 to 255
    emlearn.convert(model, method="inline").save(file=str(folder / "peer.h"), name="peer")
    for header in Path(emlearn.includedir).glob("eml_*.h"):
        shutil.copy(header, folder)
    for path in folder.glob("*.h"):
        path.write_text(re.sub(r"#include <(eml_\w+\.h)>", r'#include "\1"', path.read_text()))
    (folder / "net.h").write_text(HEADER)
    (folder / "net.c").write_text(SOURCE)
    return f"emlearn {emlearn.__version__}, dense 784-{HIDDEN}-10, floats", classes


def measure_emlearn(
    data: svd.Dataset,
    folder: Path,
    on_host: Callable[..., tuple[np.ndarray, float]],
    on_cortex: Callable[..., float],
    object_bytes: Callable[..., dict[str, int]],
) -> dict[str, Any]:
    """Take the figures of a table's row: on this machine, and on a Cortex-M3 if there is a compiler for it."""
    name, classes = write_emlearn(data, folder)
    images = data.x_test.reshape(len(data.x_test), -1)
    scores, microseconds = on_host(folder, images.astype(np.float32))
    found = {
        "name": name,
        "weights": 784 * HIDDEN + HIDDEN * 10,
        "error": 100 * float(np.mean(scores.argmax(axis=1) != data.y_test)),
        "agreement": 100 * float(np.mean(scores.argmax(axis=1) == classes)),
        "host_us": microseconds,
    }
    if shutil.which("arm-none-eabi-gcc"):
        found |= object_bytes(folder, "arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb")
        if shutil.which("qemu-system-arm"):
            found["instructions"] = on_cortex(folder, "cortex-m3", images[:50], scores[:50])
    return found
