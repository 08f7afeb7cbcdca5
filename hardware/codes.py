"""Codes of the RTL's parameters and ports, by lp's names."""

# cmd_mode of lp_accelerator (lp_round.sv). "floor" is stochastic rounding with r = 0.
MODES = {"floor": 0, "toward_zero": 1, "nearest_even": 2, "nearest_up": 3, "stochastic": 4}

# ROUNDING of lp_float_mac (lp_float_add.sv).
ROUNDINGS = {"nearest_even": 0, "nearest_up": 1, "toward_zero": 2, "stochastic": 3}
