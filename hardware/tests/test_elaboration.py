"""The RTL is clean under Verilator -Wall, and stops at parameters that make no sense."""

import pytest

from hardware.cosim.verilate import RTL, ElaborationError, lint


@pytest.mark.parametrize(
    "parameters",
    [
        {"ROWS": 4, "COLS": 5},
        {"ROWS": 1, "COLS": 1},
        {"ROWS": 1, "COLS": 8, "A_PANELS": 2},
        {"ROWS": 8, "COLS": 1, "A_PANELS": 3, "K_DEPTH": 8, "OUT_DEPTH": 8},
        {"ROWS": 2, "COLS": 2, "WL": 8, "ACC_W": 26, "CUT_MAX": 25, "MODES": 16},
        {"ROWS": 3, "COLS": 3, "WL": 24, "ACC_W": 64, "CUT_MAX": 46, "DIM_W": 31},
        {"ROWS": 3, "COLS": 3, "MODES": 1},
        {"ROWS": 2, "COLS": 2, "K_DEPTH": 2, "OUT_DEPTH": 2},
        {"ROWS": 7, "COLS": 7, "K_DEPTH": 7, "OUT_DEPTH": 8, "DIM_W": 3},
    ],
    ids=str,
)
def test_accelerator_is_clean(parameters):
    lint("lp_accelerator", **parameters)


@pytest.mark.parametrize("chunked", [0, 1])
@pytest.mark.parametrize("rounding", range(4))
@pytest.mark.parametrize("format", [(6, 1), (6, 9), (5, 10), (8, 23)], ids=str)
def test_float_mac_is_clean(format, rounding, chunked):
    lint("lp_float_mac", ACC_E=format[0], ACC_M=format[1], ROUNDING=rounding, CHUNKED=chunked)


@pytest.mark.parametrize("rounding", range(4))
@pytest.mark.parametrize(
    "operand, accumulator",
    [((2, 1), (2, 23)), ((2, 1), (3, 7)), ((2, 3), (3, 20)), ((3, 2), (4, 20))],
)
def test_float_mac_of_few_exponents_is_clean(operand, accumulator, rounding):
    """The adder's places need more bits than the exponents have."""
    (op_e, op_m), (acc_e, acc_m) = operand, accumulator
    lint("lp_float_mac", OP_E=op_e, OP_M=op_m, ACC_E=acc_e, ACC_M=acc_m, ROUNDING=rounding)


@pytest.mark.parametrize(
    "top, parameters, message",
    [
        ("lp_accelerator", {"ROWS": 0}, "ROWS = 0"),
        ("lp_accelerator", {"COLS": -1, "ROWS": 2}, "COLS = -1"),
        ("lp_accelerator", {"ROWS": 2, "COLS": 2, "WL": 1}, "WL = 1"),
        ("lp_accelerator", {"ROWS": 2, "COLS": 2, "WL": 0}, "WL = 0"),
        ("lp_accelerator", {"ROWS": 2, "COLS": 2, "ACC_W": 31, "CUT_MAX": 25}, "ACC_W = 31"),
        ("lp_accelerator", {"ROWS": 2, "COLS": 2, "CUT_MAX": 24}, "CUT_MAX = 24"),
        ("lp_accelerator", {"ROWS": 2, "COLS": 2, "CUT_MAX": 48}, "CUT_MAX = 48"),
        ("lp_accelerator", {"ROWS": 2, "COLS": 2, "CUT_MAX": -1}, "CUT_MAX = -1"),
        ("lp_accelerator", {"ROWS": 2, "COLS": 2, "MODES": 0}, "MODES = 0"),
        ("lp_accelerator", {"ROWS": 2, "COLS": 2, "MODES": 32}, "MODES = 32"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "K_DEPTH": 3}, "K_DEPTH = 3"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "K_DEPTH": 0}, "K_DEPTH = 0"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "OUT_DEPTH": 2}, "OUT_DEPTH = 2"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "OUT_DEPTH": 12}, "DEPTH = 12"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "OUT_DEPTH": 0}, "DEPTH = 0"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "A_PANELS": 0}, "A_PANELS = 0"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "A_PANELS": -1}, "A_PANELS = -1"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "DIM_W": 8}, "DIM_W = 8"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "DIM_W": 0}, "DIM_W = 0"),
        ("lp_accelerator", {"ROWS": 4, "COLS": 2, "DIM_W": 32}, "DIM_W = 32"),
        (
            "lp_accelerator",
            {"ROWS": 2, "COLS": 8, "K_DEPTH": 4, "DIM_W": 3},
            "DIM_W = 3 must hold COLS = 8",
        ),
        ("lp_lfsr", {"WORD": 34}, "WORD = 34"),
        ("lp_float_mac", {"ACC_M": 0}, "M = 0"),
        ("lp_float_mac", {"ACC_E": 1}, "E = 1"),
        ("lp_float_mac", {"OP_M": 0}, "M = 0"),
        ("lp_float_mac", {"ROUNDING": 4}, "ROUNDING = 4"),
        ("lp_float_mac", {"RANDOM_W": 0}, "RANDOM_W = 0"),
    ],
)
def test_illegal_parameters_stop_elaboration(top, parameters, message):
    with pytest.raises(ElaborationError) as error:
        lint(top, **parameters)
    # In the first line: what a parameter spoils elsewhere is told after the check that names it.
    assert message in str(error.value).splitlines()[0]


def test_a_module_is_alone_in_a_file_of_its_name():
    for path in RTL.glob("*.sv"):
        declared = [
            line.split()[1] for line in path.read_text().splitlines() if line[:7] == "module "
        ]
        assert declared == [path.stem]
