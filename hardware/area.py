"""What an accumulator bit costs: area of the multiply-accumulate unit for each mantissa width.

    PYTHONPATH=. .venv/bin/python hardware/area.py            # synthesizes: minutes
    PYTHONPATH=. .venv/bin/python hardware/area.py --plot     # only draws hardware/area.json again

FP8 (1,5,2) operands, accumulators (1,6,m), m = 2..23, and (1,8,23), float32's. Cells and areas are
those of hardware/synth/cells.lib; no clock is aimed at. The unit has a chunk register unless
"chunked" is false. A stochastic unit needs random bits each cycle: "area_lfsr" is what an LFSR of
its own adds (hardware/rtl/lp_lfsr.sv). Writes hardware/area.json after each row, and
docs/hardware/area.png.
"""

import argparse
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

from hardware.codes import ROUNDINGS
from hardware.synth import yosys

REPORT = pathlib.Path(__file__).with_suffix(".json")
COMPARED = ("nearest_even", "stochastic", "toward_zero")
FLOAT32 = (8, 23)
LEAST = 2  # mantissa bits


def configurations():
    """(exponent bits, mantissa bits, rounding, chunked), the most wanted first."""
    for chunked in (True, False):
        for rounding in COMPARED:
            yield (*FLOAT32, rounding, chunked)
    asked = (4, 8, 12, 23)
    others = [m for m in range(LEAST, 24) if m not in asked]
    for widths in (asked, others):
        for rounding in COMPARED:
            for m in widths:
                yield 6, m, rounding, True
    for m in range(LEAST, 24):
        yield 6, m, "nearest_even", False


def synthesize(exponent_bits, mantissa_bits, rounding, chunked):
    gates = yosys.to_gates(
        "lp_float_mac",
        ACC_E=exponent_bits,
        ACC_M=mantissa_bits,
        ROUNDING=ROUNDINGS[rounding],
        CHUNKED=int(chunked),
    )
    return {
        "exponent_bits": exponent_bits,
        "mantissa_bits": mantissa_bits,
        "rounding": rounding,
        "chunked": chunked,
        "area": round(gates.area, 3),
        "gate_equivalents": round(gates.gate_equivalents, 1),
        "flip_flops": gates.cells.get("DFF", 0),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plot", action="store_true", help="synthesize nothing, only draw")
    options = parser.parse_args()
    if not options.plot:
        lfsr = yosys.to_gates("lp_lfsr", WORD=16)
        report = {
            "unit": "um^2, cells.lib (NanGate 45 nm X1 areas); a gate equivalent is 0.798",
            "yosys": yosys.version(),
            "operand": [5, 2],
            "area_lfsr": round(lfsr.area, 3),
            "rows": [],
        }
        with ThreadPoolExecutor(2) as pool:
            for row in pool.map(lambda c: synthesize(*c), configurations()):
                report["rows"].append(row)
                print(*row.values(), flush=True)
                REPORT.write_text(_json(report))
    plot(json.loads(REPORT.read_text()))


def _json(report):
    rows = ",\n".join("  " + json.dumps(row) for row in report["rows"])
    head = json.dumps({**report, "rows": []}, indent=1)
    return head.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n"


def plot(report):
    from matplotlib.figure import Figure

    rows = report["rows"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    base = next(
        r["area"] for r in rows
        if r["exponent_bits"] == 8 and r["rounding"] == "nearest_even" and not r["chunked"]
    )  # fmt: skip
    series = [(rounding, True, 0) for rounding in COMPARED]
    series += [("nearest_even", False, 0), ("stochastic", True, report["area_lfsr"])]
    for number, (rounding, chunked, extra) in enumerate(series):
        points = sorted(
            (r["mantissa_bits"], base / (r["area"] + extra))
            for r in rows
            if r["exponent_bits"] == 6 and r["rounding"] == rounding and r["chunked"] == chunked
        )
        label = rounding.replace("_", " ") + (", one sum" if not chunked else "")
        label += ", with its LFSR" if extra else ""
        axis.plot(*zip(*points), marker=".", color=f"C{number}", label=label)
    axis.axhspan(1.5, 2.2, color="0.9", zorder=0)
    axis.text(22.9, 2.2, "paper: 1.5 to 2.2", ha="right", va="top", fontsize="small", color="0.4")
    axis.axhline(1, color="0.5", linewidth=0.8)
    axis.set_xlabel("mantissa bits m of the (1,6,m) accumulator, FP8 (1,5,2) operands")
    axis.set_ylabel("times smaller than with float32 accumulation")
    axis.set_xticks(range(LEAST, 24))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", title="rounding, in chunks unless said")
    figure.savefig(REPORT.parents[1] / "docs" / "hardware" / "area.png", dpi=120)


if __name__ == "__main__":
    main()
