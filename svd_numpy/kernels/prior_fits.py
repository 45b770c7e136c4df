"""Constants shared by the compiled passes over the parameters: fits of the priors in float32, and limits.

The formulas are those of `priors.py`, written in s = rho^2 = theta^2 / sigma^2 and cheap enough to be evaluated for
every weight at every step. `cpu/sweep.py` and `cuda/sweep.py` evaluate them, with a branch for each of `CODES`.
"""

from __future__ import annotations

import numpy as np

F = np.float32

CODES = {"log_uniform": 0, "log_uniform_exact": 1, "ard": 2, "normal": 3}  # the priors that the compiled passes know

S_MAX = F(1e24)  # beyond it, s v(s) is 1 to the last bit for every prior
S_MIN = F(1e-37)
LOG_RHO_MAX = F(27.631021)  # ln(S_MAX) / 2
UP = F(2.0**20)
THETA_MAX = F(2.6087e19)  # half its square is finite
# Numbers too small to matter are set to 0 before they or their squares become subnormal, because each of those traps.
SMALL_GRADIENT, SMALL_M, SMALL_V, SMALL_X = F(1e-17), F(1e-20), F(1e-35), F(1e-15)
LARGE_GRADIENT = F(1e18)  # its square is finite

# Log-uniform, the paper's fit (Molchanov et al. 2017, eq. 14): t = exp(-k2) s^k3.
K1, K3 = F(0.63576), F(1.48695)
E_K2 = F(0.15363139)  # exp(-1.87320)
SLOPE_FACTOR = F(2 * 0.63576 * 1.48695 * 0.15363139)

# Log-uniform, exact: rational functions of s for v = sqrt(2) D(rho / sqrt 2) / rho and for the value, below s = FAR.
P = tuple(F(c) for c in (0.999998808, 0.0419733338, 0.0103509137, 0.000738377741, 4.97629007e-05,
                         1.95233611e-06, 1.64998525e-07))  # fmt: skip
Q = tuple(F(c) for c in (0.375290573, 0.0688166246, 0.00815300737, 0.000705694954, 4.72954271e-05,
                         1.78793675e-06, 1.6499807e-07))  # fmt: skip
R = tuple(F(c) for c in (0.423077911, 0.0813607648, 0.0105630495, 0.00094290229, 6.91540408e-05,
                         2.1910148e-06, 2.59223782e-07))  # fmt: skip
FAR = F(2000.0)
R_FAR_1, R_FAR_0 = F(1.57108247), F(5.32108259)
