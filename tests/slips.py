"""Wrong answers that a reader may well give to the blanks of the tutorials: what their checks have to refuse."""

from __future__ import annotations

SLIPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("08", "im2col"): ("windows", "windows.transpose(0, 1, 2, 5, 4, 3)"),
    ("08", "col2im"): ("1", "cols[:, :, :, kx, ky]", "cols[:, ::-1, ::-1, ky, kx]", "cols[:, :, :, ky, kx].mean()"),
    ("09", "csr_bytes"): ("kept * (value_bytes + index_bytes) + 4 * rows",),
    ("09", "entropy"): ("-p * np.log(p) - (1 - p) * np.log(1 - p)", "-p * np.log2(p)"),
    ("09", "rounded"): ("np.rint(matrix / step)", "np.rint(matrix * step) / step", "np.floor(matrix / step) * step"),
    ("10", "needed_z"): ("beta * (1 + s) ** 2 * v", "np.sqrt(beta * (1 + s) * v)", "(1 + s) * np.sqrt(v)"),
    ("11", "folded_bias"): ("bias2 + values @ weights2", "values @ weights2[constant]"),
    ("11", "list_product"): ("x[:, j] * w", "x[:, i]"),
    ("12", "choose"): ("errors <= errors.mean()", "errors < errors.min() + luck", "errors == errors.min()"),
    ("13", "gated"): ("x * mean + sigma * noise", "mean + sigma * noise", "x * (mean + sigma**2 * noise)"),
    ("13", "fold"): ("weights * factors", "weights @ np.diag(factors)"),
    ("14", "spread_anew"): ("steps * sigma", "steps * sigma**2"),
    ("14", "spread_once"): ("steps / 2", "steps * sigma**2"),
    ("14", "bound_weight"): ("0.02", "letters_per_row"),
    ("15", "to_8_bits"): ("np.rint(values * 127)", "np.trunc(values / scale)"),
    ("15", "scaled"): ("int(factor * 2**shift)", "round(factor * 2**20)"),
}
