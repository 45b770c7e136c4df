"""Wrong answers that a reader may well give to the blanks of the tutorials: what their checks have to refuse."""

from __future__ import annotations

SLIPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("00", "kl_normal"): ("m**2 + s**2 - 1 - np.log(s)", "0.5 * (m**2 + s**2 - 1) + np.log(s)"),
    ("00", "posterior_std"): ("(1 + np.sum(x**2) * beta) ** -0.5", "1 / (1 + np.sum(x**2) / beta)"),
    ("00", "alpha_of"): ("p", "(1 - p) / p", "1 / (1 - p)"),
    ("01", "kl_monte_carlo"): (
        "np.log(np.abs(1 + np.exp(log_alpha) * rng.standard_normal(draws)))",
        "-np.log(np.abs(1 + np.exp(log_alpha / 2) * rng.standard_normal(draws)))",
    ),
    ("01", "slope_exact"): ("x * dawsn(x)", "-2 * x * dawsn(x)"),
    ("01", "ard"): ("np.log1p(np.exp(-fine))", "0.5 * np.log1p(np.exp(fine))"),
    ("02", "gradients"): ("1 + sigma * noise", "1 - sigma / theta * noise", "sigma / theta * noise"),
    ("03", "revived"): ("(alive[1:] & alive[:-1]).any(axis=0)", "(~alive[1:] & alive[:-1]).any(axis=0)"),
    ("04", "y2"): ("p - one_hot", "(one_hot - p) / len(x)"),
    ("04", "input"): (
        'd["mean2"] @ parameters["theta2"].T',
        'd["mean2"] @ parameters["theta2"].T + h * (d["var2"] @ sigma2.T)',
    ),
    ("05", "standard_error"): ("percent * (100 - percent) / n", "np.sqrt(percent / n)"),
    ("06", "sample"): ("s.dy * s.noise / s.std", "s.dy / (2 * s.std)"),
    ("06", "sweep_bytes"): ("8 * W", "56 * W"),
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
