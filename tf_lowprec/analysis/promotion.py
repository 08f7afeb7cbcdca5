"""Does training on a tensor core need promotion? The error of aligned accumulators, and a plan.

An aligned accumulator (Accumulator.aligned, Accumulator.hopper) cuts every term to F bits below the
largest exponent, which is the sum's own as soon as it has grown. Two closed forms follow from the
size of that unit, q = 2^(e - F), as in noise.py; L is the number of terms that are added before the
sum is promoted to float32, n without promotion:

    terms of both signs   error variance over the sum's: 0.078 L 4^-F     (`aligned_noise`)
    terms of one sign     relative loss of the sum: L 2^-F / (8 ln 2)     (`aligned_loss`)
"""

import dataclasses
import json
import math
import pathlib

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.accumulator import Accumulator
from tf_lowprec.analysis.noise import check_noise
from tf_lowprec.analysis.report import json_text
from tf_lowprec.analysis.tables import Table, plain_text
from tf_lowprec.analysis.vrr import check_nzr, check_terms
from tf_lowprec.precision import Gemm, Policy

# Mean and mean square of q over a log-uniform sum, in units of |s| 2^-F and s^2 4^-F.
_UNIT = 1 / (2 * math.log(2))
_UNIT_SQUARED = 3 / (8 * math.log(2))
# Of a product p of two normal numbers of variance 1, E|p|; a cut loses q / 2 of |p| on average, so
# that its covariance with p is q E|p| / 2. What is lost beyond that has variance q^2 (1/3 - ...).
_MEAN_PRODUCT = 2 / math.pi
_SHRINK = _MEAN_PRODUCT / 2
_SCATTER = 1 / 3 - _SHRINK**2
# E|s| = sqrt(2 i / pi); its mean over i < n is 2/3 of that at n.
_SHRINK_OF_SUM = _SHRINK * _UNIT * math.sqrt(2 / math.pi) * 2 / 3
_NOISE = _SHRINK_OF_SUM**2 + _SCATTER * _UNIT_SQUARED / 2


def aligned_noise(accumulator, n, nzr=1.0):
    """Noise-to-signal ratio of a sum of n zero-mean terms under an aligned accumulator.

    ``c L 4^-F`` with L = n, or the accumulator's `promote` if that is less, and F its fraction
    bits: each term is cut to a unit q of the sum, ``E[q^2] = 4^-F i sigma^2 3 / (8 ln 2)`` after i
    terms. A cut loses q / 2 of a term's magnitude on average, which shrinks the sum by
    ``0.122 sqrt(L) 2^-F``, and scatters by 0.232 q^2: c = 0.0149 + 0.0628 = 0.078. In practice it
    is an upper bound: terms on a coarse grid, such as products of FP8 numbers, are cut only when
    the sum has outgrown them. docs/hardware_formats.md compares it with measurements.

    Args:
        accumulator: an aligned Accumulator.
        n: number of terms.
        nzr: ratio of terms that are not zero.

    Raises:
        ValueError: an argument out of range.
    """
    return min(1.0, _NOISE * _length(accumulator, n, nzr) * 4.0**-accumulator.fraction_bits)


def aligned_loss(accumulator, n, nzr=1.0):
    """Relative loss of a sum of n terms of one sign: ``L 2^-F / (8 ln 2)``, at most 1.

    After i terms of mean mu the unit is ``2^-F i mu / (2 ln 2)`` on average, and each term loses
    half of it. It overestimates, by a third at a loss of 0.1, where terms vanish altogether.

    Args and errors: `aligned_noise`.
    """
    length = _length(accumulator, n, nzr)
    return min(1.0, _UNIT / 4 * length * 2.0**-accumulator.fraction_bits)


def _length(accumulator, n, nzr):
    if not isinstance(accumulator, Accumulator) or accumulator.kind != "aligned":
        raise ValueError(
            f"accumulator = {accumulator!r} must be an aligned tf_lowprec.Accumulator, such as "
            "Accumulator.hopper()"
        )
    terms = check_nzr(nzr) * check_terms(n)
    return terms if accumulator.promote is None else min(terms, accumulator.promote)


@dataclasses.dataclass(frozen=True)
class PromotedSum:
    """One kind of sum of a PromotionPlan: of one product of one layer, in one pass.

    Attributes:
        layer, kind, product, which, n: see PlannedSum.
        noise: `aligned_noise` of one sum of n terms, without promotion.
        loss: `aligned_loss` of it.
        promote: terms after which the plan promotes, None: never.
    """

    layer: str
    kind: str
    product: str
    which: str
    n: int
    noise: float
    loss: float
    promote: object


@tf.keras.utils.register_keras_serializable("tf_lowprec")
@dataclasses.dataclass(frozen=True)
class PromotionPlan:
    """Where a model's sums under an aligned accumulator need promotion; lp.convert trains by it.

    Attributes:
        model: the model's name.
        batch_size: for which GRAD's sums are planned.
        accumulator: the aligned Accumulator, without promotion.
        operand: FloatFormat of the operands.
        noise_to_signal, relative_loss: what the plan allows; None: not asked.
        sums: the PromotedSums.
    """

    model: str
    batch_size: int
    accumulator: Accumulator
    operand: formats.FloatFormat
    noise_to_signal: object
    relative_loss: object
    sums: tuple

    def policies(self):
        """{layer path: Policy}; a layer of several products promotes as its most demanding one."""
        found = {}
        for path in dict.fromkeys(s.layer for s in self.sums):
            gemms = {}
            for which in ("FWD", "BWD", "GRAD"):
                asked = [s.promote for s in self.sums if (s.layer, s.which) == (path, which)]
                if not asked:  # no such pass
                    gemms[which] = gemms["FWD"]
                    continue
                promote = min((p for p in asked if p is not None), default=None)
                accumulator = dataclasses.replace(self.accumulator, promote=promote)
                gemms[which] = Gemm(self.operand, self.operand, accumulator, scaling="amax")
            found[path] = Policy(*gemms.values())
        return found

    def table(self):
        """A rich.table.Table: each sum's length, error without promotion, and promotion."""
        table = Table(title=f"{self.model}, batch {self.batch_size}: {self.operand}")
        for column in ("layer", "product", "pass", "terms", "noise", "one-sign loss", "promote"):
            table.add_column(column, justify="left" if column == "layer" else "right")
        for s in self.sums:
            promote = "no" if s.promote is None else f"every {s.promote}"
            cells = (f"{s.n:,}", f"{s.noise:.1e}", f"{s.loss:.1e}", promote)
            table.add_row(s.layer, s.product, s.which, *cells)
        return table

    def __str__(self):
        return plain_text(self.table())

    def plot(self, path):
        """Writes a picture: noise and one-sign loss of each sum without promotion."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True)
        for axis, name, limit in (
            (axes[0], "noise", self.noise_to_signal),
            (axes[1], "loss", self.relative_loss),
        ):
            # Sums of several passes are often as long as each other: outlines, one in another.
            for which, marker, size in (("FWD", "o", 13), ("BWD", "s", 8), ("GRAD", "^", 4)):
                sums = [s for s in self.sums if s.which == which]
                lengths, values = [s.n for s in sums], [getattr(s, name) for s in sums]
                axis.loglog(lengths, values, marker, markersize=size, fillstyle="none", label=which)
            if limit is not None:
                axis.axhline(limit, color="k", ls="--", lw=1, label="allowed")
            axis.set_xlabel("terms of the sum")
            axis.grid(alpha=0.3, which="both")
        axes[0].set_title("terms of both signs: noise-to-signal")
        axes[1].set_title("terms of one sign: relative loss")
        axes[0].legend()
        figure.savefig(path, dpi=120)

    def get_config(self):
        return {
            **vars(self),
            "accumulator": self.accumulator.get_config(),
            "operand": self.operand.spec,
            "sums": [vars(s) for s in self.sums],
        }

    @classmethod
    def from_config(cls, config):
        return cls(
            **{
                **config,
                "accumulator": Accumulator.from_config(config["accumulator"]),
                "operand": formats.parse_spec(config["operand"]),
                "sums": tuple(PromotedSum(**s) for s in config["sums"]),
            }
        )

    def to_json(self, path=None):
        """The plan as JSON text; also written to `path`, if given."""
        text = json.dumps(self.get_config(), indent=1) + "\n"
        if path is not None:
            pathlib.Path(path).write_text(text)
        return text

    @classmethod
    def from_json(cls, source):
        """The plan that `to_json` wrote: from its text, or from the file of that name."""
        try:
            return cls.from_config(json.loads(json_text(source)))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no PromotionPlan: {error!r}") from None


def promotion_plan(
    name,
    batch_size,
    lengths,
    accumulator,
    operand=formats.FP8_E4M3FN,
    noise_to_signal=1e-2,
    relative_loss=None,
):
    """The PromotionPlan of sums of given lengths; `plan(model, accumulator=...)` finds them.

    A sum is promoted where, without, it would err by more than is allowed, after the most terms, a
    power of two times the accumulator's group, that keep within it.

    Args:
        lengths: {(layer path, class, product, pass): (n, _)}.
        noise_to_signal: allowed `aligned_noise`, for sums of terms of both signs.
        relative_loss: allowed `aligned_loss`, for sums that may be of one sign; None: none are.

    Raises:
        ValueError: an accumulator of another kind; limits that no promotion keeps.
    """
    check_noise(noise_to_signal)
    if relative_loss is not None:
        check_noise(relative_loss)
    accumulator = dataclasses.replace(accumulator, promote=None)

    def is_enough(n, promote):
        candidate = dataclasses.replace(accumulator, promote=promote)
        return aligned_noise(candidate, n) <= noise_to_signal and (
            relative_loss is None or aligned_loss(candidate, n) <= relative_loss
        )

    sums = []
    for (layer, kind, product, which), (n, _) in lengths.items():
        promote = None
        if not is_enough(n, None):
            promote = accumulator.group
            if not is_enough(n, promote):
                raise ValueError(
                    f"{layer}, {which}: not even promotion after every {promote} terms keeps "
                    f"noise_to_signal = {noise_to_signal}, relative_loss = {relative_loss}"
                )
            while is_enough(n, 2 * promote):
                promote *= 2
        noise, loss = aligned_noise(accumulator, n), aligned_loss(accumulator, n)
        sums.append(PromotedSum(layer, kind, product, which, n, noise, loss, promote))
    return PromotionPlan(
        name, batch_size, accumulator, operand, noise_to_signal, relative_loss, tuple(sums)
    )
