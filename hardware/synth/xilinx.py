"""Resources of a module in a Xilinx 7-series FPGA, by Yosys's synth_xilinx."""

import pathlib
import re
import tempfile

from hardware.synth import yosys

# Cells of Yosys's statistics that count as each resource.
_LUT = re.compile(r"LUT[1-6]$")
_SHIFT = {"SRL16E": 1, "SRLC32E": 1}
# LUTs that a distributed RAM takes.
_RAM = {"RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4}
_FF = {"FDRE", "FDSE", "FDCE", "FDPE"}
_BLOCKS = {"RAMB36E1": 1.0, "RAMB18E1": 0.5}


def resources(top, black_boxes=(), **parameters):
    """{"lut", "ff", "dsp", "bram36", "carry"} of a module, its hierarchy kept.

    Nothing is placed or routed: no slices, no clock rate. Modules named in `black_boxes` are not
    looked into but counted, each under its name.
    """
    yosys.BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=yosys.BUILD) as work:
        design, netlist = pathlib.Path(work) / "design.il", pathlib.Path(work) / "netlist.json"
        if black_boxes:
            yosys.elaborate(top, parameters, black_boxes, design)
            commands = [f"read_rtlil {design}"]
        else:
            commands = yosys.read(top, parameters)
        yosys.run(
            [
                *commands,
                f"synth_xilinx -family xc7 -noiopad -top {top}",
                f"write_json {netlist}",
            ]
        )
        cells = yosys.count_cells(netlist, top)
    return {**summary(cells), **{name: cells.get(name, 0) for name in black_boxes}}


def summary(cells):
    """Resources of {cell: count}."""
    luts = sum(count for name, count in cells.items() if _LUT.match(name))
    memory = {**_SHIFT, **_RAM}
    return {
        "lut": luts + sum(memory[name] * count for name, count in cells.items() if name in memory),
        "ff": sum(count for name, count in cells.items() if name in _FF),
        "dsp": cells.get("DSP48E1", 0),
        "bram36": sum(_BLOCKS[name] * n for name, n in cells.items() if name in _BLOCKS),
        "carry": cells.get("CARRY4", 0),
    }
