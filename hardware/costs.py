"""Puts hardware/area.json and hardware/energy.json where Plan.hardware reads them, and draws both.

    PYTHONPATH=. .venv/bin/python hardware/costs.py

Writes tf_lowprec/analysis/hardware_costs.json; docs/hardware/energy.png; and
docs/hardware/pareto.png, the test error of MNIST DNN with narrow accumulators
(docs/accumulation/accumulator_bits.json, trained by benchmarks/accumulator_bits.py) against the
area of the unit.
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
PICTURES = HERE.parent / "docs" / "hardware"
ROOT = HERE.parent
COSTS = ROOT / "tf_lowprec/analysis/hardware_costs.json"
GATE = 0.798  # um^2 of a NAND2


def load(name):
    return json.loads((HERE / f"{name}.json").read_text())


def costs(area, energy):
    """{"units": {"exponent bits,mantissa bits,rounding,sums": [gate equivalents, pJ]}}."""

    def key(row):
        sums = "chunked" if row["chunked"] else "one sum"
        return f"{row['exponent_bits']},{row['mantissa_bits']},{row['rounding']},{sums}"

    areas = {key(row): row for row in area["rows"]}
    units = {}
    for row in energy["rows"]:
        if key(row) not in areas:
            continue
        random = row["rounding"] == "stochastic"
        gates = (areas[key(row)]["area"] + random * area["area_lfsr"]) / GATE
        picojoules = row["pj_per_mac"] + random * energy["pj_lfsr"]
        units[key(row)] = [round(gates, 1), round(picojoules, 4)]
    return {"source": "hardware/costs.py", "units": units}


def write(path, table):
    units = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in table["units"].items())
    path.write_text(f'{{\n "source": "{table["source"]}",\n "units": {{\n{units}\n }}\n}}\n')


def plot_energy(table, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for number, rounding in enumerate(("nearest_even", "stochastic", "toward_zero")):
        points = sorted(
            (int(k.split(",")[1]), v[1])
            for k, v in table["units"].items()
            if k.startswith("6,") and k.endswith(f"{rounding},chunked")
        )
        label = rounding.replace("_", " ") + (", with its LFSR" if number == 1 else "")
        axis.plot(*zip(*points), marker=".", label=label)
    base = table["units"]["8,23,nearest_even,one sum"][1]
    axis.axhline(base, color="0.5", linewidth=0.8)
    label = "float32, one sum, nearest even"
    axis.text(12, base, label, va="bottom", fontsize="small", color="0.4")
    axis.set_ylim(0)
    axis.set_xlabel("mantissa bits m of the (1,6,m) accumulator, FP8 (1,5,2) operands")
    axis.set_ylabel("pJ per multiply-accumulate, estimated")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", title="in chunks of 64")
    figure.savefig(path, dpi=120)


MOST = 4.4  # of the errors in the picture, %; larger ones are said in words


def plot_pareto(table, path):
    from matplotlib.figure import Figure

    runs = json.loads((ROOT / "docs/accumulation/accumulator_bits.json").read_text())["runs"]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axis = figure.subplots()
    # Where the numbers of each curve stand, for those of neighbours not to meet.
    places = ((0, 5), (0, -11), (-6, -11), (6, 5))
    for number, (rounding, chunk) in enumerate(
        (r, c) for c in (64, None) for r in ("nearest_even", "toward_zero")
    ):
        sums = "chunked" if chunk else "one sum"
        points = []
        for run in runs:
            key = f"6,{run['bits']},{rounding},{sums}"
            if (run["rounding"], run["chunk"]) == (rounding, chunk) and key in table["areas"]:
                points.append((table["areas"][key], run["test_error_percent"][-1], run["bits"]))
        if not points:
            continue
        points.sort(key=lambda point: point[2])
        color = f"C{number}"
        label = f"{rounding.replace('_', ' ')}, {'chunks of 64' if chunk else 'one sum'}"
        gates, errors = [p[0] for p in points], [min(p[1], MOST) for p in points]
        axis.plot(gates, errors, "-", color=color, alpha=0.25)
        axis.plot(gates, errors, "o", color=color, markersize=4, label=label)
        for (x, error, bits), y in zip(points, errors):
            axis.annotate(
                f"{bits}" if error == y else f"{bits}: {error} %", (x, y), xytext=places[number],
                textcoords="offset points", ha="center", fontsize="small", color=color,
            )  # fmt: skip
    base = next(run for run in runs if run["bits"] is None)["test_error_percent"][-1]
    gates = table["areas"]["8,23,nearest_even,one sum"]
    axis.plot([gates], [base], "k*", label="float32 accumulation (trained in float32)")
    axis.set_ylim(2.7, MOST + 0.1)
    axis.set_xlabel("area of a multiply-accumulate unit, gate equivalents")
    axis.set_ylabel("test error after 2 epochs, %")
    axis.grid(alpha=0.3)
    title = "MNIST DNN; lines go through the mantissa bits in order"
    axis.legend(fontsize="small", title=title)
    figure.savefig(path, dpi=120)


def main():
    area, energy = load("area"), load("energy")
    table = costs(area, energy)
    write(COSTS, table)
    plot_energy(table, PICTURES / "energy.png")
    sums = {True: "chunked", False: "one sum"}
    areas = {
        f"{r['exponent_bits']},{r['mantissa_bits']},{r['rounding']},{sums[r['chunked']]}": r["area"]
        / GATE
        for r in area["rows"]
    }
    plot_pareto({**table, "areas": areas}, PICTURES / "pareto.png")


if __name__ == "__main__":
    main()
