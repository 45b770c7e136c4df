"""Recurrent networks as C: compiled with sanitizers, they do what the runtime does, token by token."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_c import CC, CHECKED, STRICT, compiled
from test_text import pruned_net

import svd_numpy as svd

DRIVER = """
#include <stdio.h>
#include "net.h"
int main(void)
{
    int token;
    net_reset();
    while ((token = getchar()) != EOF) {
        if (token == 255) {
            net_reset();
        } else {
            fwrite(net_step((unsigned)token), sizeof(float), NET_OUTPUTS, stdout);
        }
    }
    return 0;
}
"""


def letters(cell: Any) -> svd.Sequential:
    layers = cell(7, 9, tokens=True), svd.VariationalDense(9, 4)
    return svd.Sequential(*layers, backend="numpy", input_shape=(5,), seed=2)


NETWORKS = {
    "lstm": lambda: letters(svd.VariationalLSTM),
    "gru": lambda: letters(svd.VariationalGRU),
    "words, lstm": lambda: pruned_net(svd.VariationalLSTM, "numpy"),
    "words, gru": lambda: pruned_net(svd.VariationalGRU, "numpy"),
    "words alone": lambda: svd.Sequential(svd.Embedding(7, 3), backend="numpy", input_shape=(5,)),
}


@compiled
@pytest.mark.parametrize("name", NETWORKS)
def test_the_compiled_network_keeps_its_state_as_the_runtime_does(name: str, tmp_path: Path) -> None:
    small = svd.compress(NETWORKS[name](), backend="numpy")
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 7, (3, 20))
    source = svd.export_c(small, tmp_path / "net", tokens, numbers="floats")
    (tmp_path / "net" / "driver.c").write_text(DRIVER)
    program = tmp_path / "driver"
    command = [CC or "cc", *STRICT, *CHECKED, "-o", str(program), str(source), str(source.with_name("driver.c")), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stream = np.insert(tokens, 0, 255, axis=1).astype(np.uint8).tobytes()
    done_bytes = subprocess.run([program], input=stream, capture_output=True)
    assert done_bytes.returncode == 0, done_bytes.stderr.decode()
    found = np.frombuffer(done_bytes.stdout, np.float32).reshape(3, 20, -1)
    np.testing.assert_allclose(found, small.predict(tokens), rtol=1e-4, atol=1e-5)
    made = subprocess.run(["make", "-C", str(source.parent), f"CC={CC}"], capture_output=True, text=True)
    assert made.returncode == 0 and "0 of" in made.stdout, made.stdout + made.stderr


def test_what_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    small = svd.compress(letters(svd.VariationalLSTM), backend="numpy")
    with pytest.raises(svd.SvdValueError, match="recurrent networks are written in floats"):
        svd.export_c(small, tmp_path / "net", [[1, 2]])
    with pytest.raises(svd.SvdValueError, match="expected tokens from 0 to 6"):
        svd.export_c(small, tmp_path / "net", [[1, 7]], numbers="floats")
    assert not (tmp_path / "net").exists()
