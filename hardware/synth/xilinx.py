"""Resources of a module in a Xilinx 7-series FPGA, by Yosys's synth_xilinx."""

import re

from hardware.synth import yosys

# Cells of Yosys's statistics that count as each resource.
_LUT = re.compile(r"LUT[1-6]$")
_SHIFT = {"SRL16E": 1, "SRLC32E": 1}
# LUTs that a distributed RAM takes.
_RAM = {"RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4}
_FF = {"FDRE", "FDSE", "FDCE", "FDPE"}
_BLOCKS = {"RAMB36E1": 1.0, "RAMB18E1": 0.5}


def resources(top, **parameters):
    """{"lut", "ff", "dsp", "bram36", "carry"} of a module, its hierarchy kept.

    Nothing is placed or routed: no slices, no clock rate.
    """
    text = yosys.run(
        [*yosys.read(top, parameters), f"synth_xilinx -family xc7 -noiopad -top {top}", "stat"]
    )
    cells = {}
    # The last table is that of the whole design, all instances counted.
    for line in text.rsplit("Number of cells:", 1)[1].splitlines()[1:]:
        found = re.match(r"^\s+(\w+)\s+(\d+)$|^\s+(\d+)\s+(\w+)$", line)
        if not line.strip():
            break
        if not found:
            continue  # an instance of a module, whose cells are counted
        name, count = found[1] or found[4], int(found[2] or found[3])
        cells[name] = cells.get(name, 0) + count
    return summary(cells)


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
