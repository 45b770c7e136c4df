"""The contract on the CPU, in Numba."""
