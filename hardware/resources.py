"""FPGA resources of the accelerator, and what stochastic rounding adds, by Yosys.

    PYTHONPATH=. .venv/bin/python hardware/resources.py

For Xilinx 7-series, after synthesis: nothing is placed or routed, so there are no slices and no
clock rate. An element is synthesized once and counted 784 times; everything else, the
skewing, tile memories, rounding units, controller and FIFOs, is synthesized in place. Writes
hardware/resources.json.
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
    "stochastic": 1 << MODES["stochastic"],
    "all modes": 31,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    element = xilinx.resources("lp_pe", WL=WL, ACC_W=ACC_W)
    print("element", element, flush=True)
    report = {"device": DEVICE, "yosys": yosys.version(), "element": element, "designs": {}}
    size = {"ROWS": SIDE, "COLS": SIDE, "WL": WL, "ACC_W": ACC_W}
    for name, modes in ROUNDING.items():
        unit = xilinx.resources("lp_round", WL=WL, ACC_W=ACC_W, MODES=modes)
        rest = xilinx.resources("lp_accelerator", ["lp_pe"], **size, MODES=modes)
        elements = rest.pop("lp_pe")
        whole = {kind: elements * element[kind] + rest[kind] for kind in rest}
        report["designs"][name] = {"rounding_unit": unit, "elements": elements, "whole": whole}
        print(name, unit, whole, flush=True)
        write(report)


def write(report):
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
