"""How the products of a dot product are added up."""

import dataclasses
import numbers

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.formats import Rounding


@tf.keras.utils.register_keras_serializable("tf_lowprec")
@dataclasses.dataclass(frozen=True)
class Accumulator:
    """How the products of a dot product are added up.

    ``Accumulator(format, chunk, rounding)`` rounds every partial sum to `format`, for k ascending:
    ``s_0 = +0, s_{k+1} = round(s_k + a_k b_k)``, the exact sum rounded once (Sakr et al., 2019,
    section 3). With `chunk`, each run of `chunk` consecutive k is summed so from +0, and the
    chunks' sums are added up in order with the same rounding. The result depends on neither the
    number of threads nor the instruction set.

    Args:
        format: a FloatFormat; the paper's are (1, 6, m): ``FloatFormat(6, m)``.
        chunk: a positive number of terms, or None for one sequential sum.
        rounding: a Rounding or its name. Stochastic rounding takes
            ``floor(|s| / ulp + r 2^-16)``, r the top 16 bits of a 32-bit xorshift generator of the
            output element's own, which advances once for each rounding.
        kind, group, fraction_bits, promote: leave them; the class methods set them.

    Raises:
        ValueError: a format that is no FloatFormat, a chunk below 1, an unknown rounding.
    """

    format: object = None
    chunk: object = None
    rounding: Rounding = Rounding.NEAREST_EVEN
    kind: str = "narrow"
    group: object = None
    fraction_bits: object = None
    promote: object = None

    def __post_init__(self):
        if self.kind not in ("native", "wide", "narrow", "aligned"):
            raise ValueError(
                f"kind = {self.kind!r} must be 'native', 'wide', 'narrow' or 'aligned'"
            )
        object.__setattr__(self, "rounding", Rounding.of(self.rounding))
        if self.kind == "aligned":
            self._check_aligned()
            return
        if (self.group, self.fraction_bits, self.promote) != (None, None, None):
            raise ValueError(
                f"a {self.kind} accumulator has no group, fraction_bits or promote: see "
                "Accumulator.aligned"
            )
        if self.kind != "narrow":
            if (self.format, self.chunk) != (None, None):
                raise ValueError(f"a {self.kind} accumulator has neither format nor chunk")
            if self.rounding != Rounding.NEAREST_EVEN:
                raise ValueError(
                    f"rounding = {self.rounding.value!r}: a {self.kind} accumulator does not "
                    "round; Gemm's rounding is that of the result"
                )
            return
        if not isinstance(self.format, formats.FloatFormat):
            raise ValueError(
                f"format = {self.format!r} must be a tf_lowprec.FloatFormat, such as "
                "FloatFormat(6, 9); fixed point is summed by Accumulator.wide()"
            )
        if self.chunk is not None:
            self._set_integer("chunk", 1, 2**63 - 1, ", or None for one sum")

    def _set_integer(self, name, low, high, hint=""):
        value = getattr(self, name)
        is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not is_int or not low <= value <= high:
            kind = "a positive integer" if low == 1 else f"an integer of at least {low}"
            limit = "" if high >= 2**62 else f" of at most {high}"
            raise ValueError(f"{name} = {value!r} must be {kind}{limit}{hint}")
        object.__setattr__(self, name, int(value))

    def _check_aligned(self):
        if self.chunk is not None:
            raise ValueError(f"chunk = {self.chunk!r}: an aligned accumulator has promote instead")
        format = self.format
        if (
            not isinstance(format, formats.FloatFormat)
            or format.specials != "ieee"
            or format.saturate
            or not format.subnormals
        ):
            raise ValueError(
                f"format = {format!r} must be a tf_lowprec.FloatFormat with infinities and "
                "subnormal numbers, such as FloatFormat(8, 13)"
            )
        if self.rounding not in (Rounding.TOWARD_ZERO, Rounding.NEAREST_EVEN):
            raise ValueError(
                f"rounding = {self.rounding.value!r} must be 'toward_zero' or 'nearest_even'"
            )
        self._set_integer("group", 1, 2**20)
        self._set_integer("fraction_bits", 1, 30)
        if self.promote is not None:
            self._set_integer("promote", 1, 2**63 - 1, ", or None")
            if self.promote % self.group:
                raise ValueError(
                    f"promote = {self.promote} must be a multiple of group = {self.group}, or None"
                )

    @classmethod
    def native(cls):
        """TensorFlow's own float32 kernel: fast, no promise on the last bits."""
        return cls(kind="native")

    @classmethod
    def wide(cls):
        """The exact sum, rounded once at the end, as Gupta et al. (2015) accumulate.

        For operands whose products and sums fit 53 bits; `Gemm.exact_length` gives the bound.
        """
        return cls(kind="wide")

    @classmethod
    def aligned(cls, group, fraction_bits, format, rounding="toward_zero", promote=None):
        """Groups of products, aligned and added as tensor cores do.

        For each run of `group` consecutive k, from s = +0::

            e = max(exponent(s), exponent(a_k) + exponent(b_k))      over terms that are not 0
            s = round(s + sum a_k b_k), each term first cut toward zero to 2^(e - fraction_bits)

        where the sum is exact and rounded to `format`; beyond it s is infinite under either
        rounding. Exponents are those of the leading bit, but at least the operand format's lowest:
        a product's is not normalized. After every `promote` terms, and at the end, s is added to a
        total in float32 and starts again at +0.

        Args:
            group: terms aligned together, up to 2^20.
            fraction_bits: that a term keeps below the largest exponent, 1..30.
            format: FloatFormat of s, with infinities and subnormals.
            rounding: of s, "toward_zero" or "nearest_even".
            promote: a multiple of group, or None: s itself is the result.

        Raises:
            ValueError: an argument that is none of these.
        """
        return cls(format, None, rounding, "aligned", group, fraction_bits, promote)

    @classmethod
    def hopper(cls, promote=None, operand_bits=8, into="float32"):
        """The accumulation of NVIDIA Hopper's tensor cores, as measured on an H200.

        ============ ======= ===== ============= ======================= ============
        operand_bits into    group fraction_bits format of the sum       rounding
        ============ ======= ===== ============= ======================= ============
        8            float32 32    13            (1, 8, 13)              toward zero
        8            float16 32    13            (1, 5, 10)              nearest even
        16           float32 16    25            (1, 8, 23)              toward zero
        16           float16 16    25            (1, 5, 10)              nearest even
        ============ ======= ===== ============= ======================= ============

        These give the bits of the instructions wgmma (all operand types; E4M3 and E5M2, also mixed)
        and, for 16-bit operands, mma.sync: see docs/hardware_formats.md.

        Args:
            promote: None, as the instructions themselves do; 128 adds the sum to a float32 total
                after every 128 terms, as DeepSeek-V3 does (arXiv:2412.19437, section 3.3.2).
            operand_bits: 8 or 16.
            into: "float32" or "float16", the type of the instruction's accumulator.

        Raises:
            ValueError: an argument that is none of these.
        """
        if operand_bits not in (8, 16):
            raise ValueError(f"operand_bits = {operand_bits!r} must be 8 or 16")
        if into not in ("float32", "float16"):
            raise ValueError(f"into = {into!r} must be 'float32' or 'float16'")
        group, fraction_bits = (32, 13) if operand_bits == 8 else (16, 25)
        if into == "float16":
            return cls.aligned(group, fraction_bits, formats.FP16, "nearest_even", promote)
        format = formats.FloatFormat(8, 13) if operand_bits == 8 else formats.FP32
        return cls.aligned(group, fraction_bits, format, "toward_zero", promote)

    def get_config(self):
        if self.kind in ("native", "wide"):
            return {"kind": self.kind}
        config = {"format": self.format.spec, "rounding": self.rounding.value}
        if self.kind == "narrow":
            return {**config, "chunk": self.chunk}
        names = ("kind", "group", "fraction_bits", "promote")
        return {**config, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if config.get("format") is not None:
            config["format"] = formats.parse_spec(config["format"])
        return cls(**config)
