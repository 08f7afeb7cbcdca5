"""What a plan costs in silicon: area and energy of its multiply-accumulate units.

The costs of a unit are those that hardware/area.py and hardware/energy.py found by synthesizing and
simulating hardware/rtl/lp_float_mac.sv; docs/hardware.md says how, and under which assumptions.
"""

import dataclasses
import functools
import json
import pathlib

from tf_lowprec.analysis.tables import Table, plain_text
from tf_lowprec.formats import FloatFormat, Rounding

_COSTS = pathlib.Path(__file__).with_name("hardware_costs.json")
FLOAT32 = FloatFormat(8, 23)


@dataclasses.dataclass(frozen=True)
class UnitCost:
    """One multiply-accumulate unit.

    Attributes:
        area: in gate equivalents (NAND2).
        picojoules: per multiply-accumulate.
    """

    area: float
    picojoules: float


@functools.cache
def _costs():
    return json.loads(_COSTS.read_text())


def unit_cost(format, rounding="nearest_even", chunked=True):
    """The UnitCost of FP8 (1,5,2) operands and an accumulator of `format`.

    Args:
        format: FloatFormat(6, m) with m = 2..23 (fewer cost as much as 2), or (8, 23), float32's.
        rounding: of partial sums. NEAREST_UP is taken as NEAREST_EVEN, which differs in ties alone.
            STOCHASTIC includes an LFSR for each unit.
        chunked: with a register for the sum of chunks; without one, float32's alone is known.

    Raises:
        ValueError: a unit that was not synthesized.
    """
    rounding = Rounding.of(rounding)
    known = Rounding.NEAREST_EVEN if rounding == Rounding.NEAREST_UP else rounding
    bits = max(format.mantissa_bits, 2) if format.exponent_bits == 6 else format.mantissa_bits
    key = f"{format.exponent_bits},{bits},{known.value},{'chunked' if chunked else 'one sum'}"
    if key not in _costs()["units"]:
        raise ValueError(
            f"format = {format} has no synthesized unit with {rounding.value} partial sums "
            f"{'in chunks' if chunked else 'without chunks'}: there are FloatFormat(6, m) "
            "with m <= 23 and FloatFormat(8, 23), for FP8 (1,5,2) operands"
        )
    return UnitCost(*_costs()["units"][key])


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """The products of one layer in one pass.

    Attributes:
        layer, product, which: as in PlannedSum.
        mantissa_bits: of the accumulator.
        macs: multiply-accumulates in a training step; None where the plan does not know them.
        area: of one unit, in gate equivalents.
        microjoules: of them all in a training step; None without `macs`.
        area_ratio, energy_ratio: of float32 accumulation to this: how many times it costs.
    """

    layer: str
    product: str
    which: str
    mantissa_bits: int
    macs: object
    area: float
    microjoules: object
    area_ratio: float
    energy_ratio: float


@dataclasses.dataclass(frozen=True)
class Total:
    """A way to build the array for the whole network.

    Attributes:
        name: "float32", "one width" (the widest planned, for all) or "planned".
        area: of a unit, in gate equivalents. For "planned" the mean over all multiply-accumulates:
            that of an array whose units are given to the products in proportion to their work.
        microjoules: of a training step; None where the work is not known.
        area_ratio, energy_ratio: of float32 to this.
    """

    name: str
    area: float
    microjoules: object
    area_ratio: float
    energy_ratio: object


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Area and energy of a plan's multiply-accumulate units; Plan.hardware makes it.

    Attributes:
        layers: a LayerCost for each planned sum of FP8 operands.
        totals: Totals of "float32", "one width" and "planned".
        left_out: (layer, pass) of sums whose operands have another format, such as the last layer.
    """

    model: str
    layers: tuple
    totals: tuple
    left_out: tuple

    def table(self):
        """A rich.table.Table."""
        caption = (
            "area of a unit in gate equivalents; energy of a training step, estimated for 45 nm; "
            "x: times less than with float32 accumulation"
        )
        if self.left_out:
            names = ", ".join(dict.fromkeys(layer for layer, _ in self.left_out))
            caption += f"\nleft out, as their operands are not FP8 (1,5,2): {names}"
        title = f"{self.model}: multiply-accumulate units at the planned widths"
        rich_table = Table(title=title, caption=caption, caption_justify="left")
        rich_table.add_column("layer", overflow="fold", min_width=12)
        rich_table.add_column("pass")
        for name in ("bits", "MACs", "area", "x", "uJ", "x"):
            rich_table.add_column(name, justify="right")
        for row in self.layers:
            name = row.layer if row.product == "kernel" else f"{row.layer} {row.product}"
            bits = str(row.mantissa_bits)
            macs = "" if row.macs is None else f"{row.macs:,}"
            rich_table.add_row(name, row.which, bits, macs, *_cells(row))
        rich_table.add_section()
        for total in self.totals:
            rich_table.add_row(f"all: {total.name}", "", "", "", *_cells(total))
        return rich_table

    def __str__(self):
        return plain_text(self.table())

    def to_dict(self):
        """Everything as a JSON-able dict."""
        return dataclasses.asdict(self)


def _cells(row):
    energy = ["", ""]
    if row.microjoules is not None:
        energy = [f"{row.microjoules:,.3g}", f"{row.energy_ratio:.2f}"]
    return [f"{row.area:,.0f}", f"{row.area_ratio:.2f}", *energy]


def hardware(plan):
    """See Plan.hardware."""
    base = unit_cost(FLOAT32, plan.rounding, chunked=False)
    rows, left_out = [], []
    for s in plan.sums:
        if s.operand != FloatFormat(5, 2):
            left_out.append((s.layer, s.which))
            continue
        # A unit without chunks is left out of the tables: it would be smaller than this one.
        cost = unit_cost(FloatFormat(plan.exponent_bits, s.mantissa_bits), plan.rounding)
        microjoules = None if s.macs is None else s.macs * cost.picojoules * 1e-6
        ratios = base.area / cost.area, base.picojoules / cost.picojoules
        rows.append(
            LayerCost(
                s.layer,
                s.product,
                s.which,
                s.mantissa_bits,
                s.macs,
                cost.area,
                microjoules,
                *ratios,
            )
        )
    if not rows:
        raise ValueError(
            f"no sum of {plan.model!r} has FP8 (1,5,2) operands, whose units were synthesized: "
            "plan with operand=FP8_E5M2"
        )
    known = all(row.macs is not None for row in rows)
    macs = sum(row.macs for row in rows) if known else None
    widest = max(row.mantissa_bits for row in rows)
    one = unit_cost(FloatFormat(plan.exponent_bits, widest), plan.rounding)
    work = [row.macs if known else 1 for row in rows]
    area = sum(row.area * w for row, w in zip(rows, work)) / sum(work)
    energy = sum(row.microjoules for row in rows) if known else None

    def total(name, area, microjoules):
        ratio = None if microjoules is None else macs * base.picojoules * 1e-6 / microjoules
        return Total(name, area, microjoules, base.area / area, ratio)

    def all_at(cost):
        return cost.area, None if macs is None else macs * cost.picojoules * 1e-6

    totals = (
        total("float32", *all_at(base)),
        total("one width", *all_at(one)),
        total("planned", area, energy),
    )
    return Hardware(plan.model, tuple(rows), totals, tuple(left_out))
