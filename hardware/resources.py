"""FPGA resources of the accelerator, and what stochastic rounding adds, by Yosys.

    PYTHONPATH=. .venv/bin/python hardware/resources.py

For Xilinx 7-series, after synthesis with the hierarchy kept: nothing is placed or routed, so there
are no slices and no clock rate. Designs with other rounding units differ from the one that is
synthesized whole by 28 times the difference of their units. Writes hardware/resources.json.
"""

import argparse
import json
import pathlib

from hardware.codes import MODES
from hardware.synth import xilinx, yosys

SIDE, WL, ACC_W = 28, 16, 48
DEVICE = {"name": "Kintex-7 325T", "dsp": 840, "lut": 203_800, "ff": 407_600, "bram36": 445}
# One rounding unit that truncates, one that also draws from its LFSR, one with all modes.
ROUNDING = {
    "truncate": 1 << MODES["floor"],
    "nearest up": 1 << MODES["nearest_up"],
    "stochastic": 1 << MODES["stochastic"],
    "all modes": 31,
}


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    units = {}
    for name, modes in ROUNDING.items():
        parameters = {"WL": WL, "ACC_W": ACC_W, "MODES": modes}
        gates = yosys.to_gates("lp_round", **parameters)
        units[name] = {
            **xilinx.resources("lp_round", **parameters),
            "gate_equivalents": round(gates.gate_equivalents, 1),
        }
        print(name, units[name], flush=True)
    element = xilinx.resources("lp_pe", WL=WL, ACC_W=ACC_W)
    element_gates = yosys.to_gates("lp_pe", WL=WL, ACC_W=ACC_W).gate_equivalents
    print("element", element, f"{element_gates:.0f} gate equivalents", flush=True)
    whole = xilinx.resources("lp_accelerator", ROWS=SIDE, COLS=SIDE, WL=WL, ACC_W=ACC_W)
    print("all modes, whole", whole, flush=True)
    designs = {}
    for name, unit in units.items():
        design = {
            kind: count + SIDE * (unit[kind] - units["all modes"][kind])
            for kind, count in whole.items()
        }
        designs[name] = {"rounding_unit": unit, "whole": design}
    report = {
        "device": DEVICE,
        "yosys": yosys.version(),
        "element": {**element, "gate_equivalents": round(element_gates, 1)},
        "designs": designs,
    }
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
