"""Number formats: small, immutable values that say which numbers exist.

A tensor in a low-precision format is a float32 tensor whose values lie on the format's grid;
float32 holds every format offered here exactly.
"""

import dataclasses
import enum
import numbers
import re

import tensorflow as tf

_PACKAGE = "tf_lowprec"


class Rounding(str, enum.Enum):
    """How a value between two neighbours of a grid is rounded.

    * ``NEAREST_EVEN``: to the nearest; a tie goes to the even integer significand (IEEE 754).
    * ``NEAREST_UP``: to the nearest; a tie goes towards +inf (Gupta et al., 2015, section 3).
    * ``STOCHASTIC``: up with probability (x - floor(x)) / ulp, where floor is taken of the
      magnitude for floats and of the two's complement value for fixed point: unbiased.
    * ``TOWARD_ZERO``: truncation of the magnitude.

    Wherever a rounding is an argument, its value as a string ("stochastic") is accepted too.
    """

    NEAREST_EVEN = "nearest_even"
    NEAREST_UP = "nearest_up"
    STOCHASTIC = "stochastic"
    TOWARD_ZERO = "toward_zero"

    @classmethod
    def of(cls, rounding, argument="rounding"):
        """The Rounding that `rounding` names; ValueError names `argument` otherwise."""
        try:
            return cls(rounding)
        except ValueError:
            names = ", ".join(repr(r.value) for r in cls)
            raise ValueError(f"{argument} = {rounding!r} must be one of {names}") from None


def _check_int(format, argument, low, high, hint=""):
    """Makes the field a Python int within bounds, or raises ValueError."""
    value = getattr(format, argument)
    is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_int or not low <= value <= high:
        raise ValueError(f"{argument} = {value!r} must be an integer in {low}..{high}{hint}")
    object.__setattr__(format, argument, int(value))


@tf.keras.utils.register_keras_serializable(_PACKAGE)
@dataclasses.dataclass(frozen=True)
class FloatFormat:
    """A floating-point format (1, e, m): sign, `exponent_bits`, `mantissa_bits`.

    With bias b = 2^(e-1) - 1, a code with exponent field E > 0 and mantissa field M stands for
    ``2^(E - b) * (1 + M / 2^m)``, and with E = 0 for the subnormal ``2^(1 - b) * M / 2^m``.

    Args:
        exponent_bits: 2..8.
        mantissa_bits: 0..23, without the hidden bit.
        specials: what the top codes mean.

            | specials | top codes             | overflow, +-inf | NaN                             |
            |----------|-----------------------|-----------------|---------------------------------|
            | ieee     | exponent: inf and NaN | +-inf           | NaN                             |
            | fn       | all ones: NaN         | NaN             | NaN                             |
            | finite   | numbers               | +-max           | float32 NaN, an error in to_bits|
            | dlfloat  | all ones: NaN or inf  | NaN             | NaN                             |

            Rounding toward zero never overflows: a finite value beyond max becomes +-max.
            ``dlfloat`` has no subnormals: its lowest exponent is one more normal binade, of which
            the zero mantissa is the number 0 (Agrawal et al., "DLFloat", ARITH 2019).
        saturate: overflow and +-inf give +-max, whatever `specials` says.
        subnormals: without them, only 0 lies below the smallest normal number 2^(1 - b); a value
            in between is rounded to one of the two: to nearest even a tie to 0, to nearest up
            toward +inf.

    Raises:
        ValueError: a field out of range, or a format that float32 cannot carry.
    """

    exponent_bits: int = 5
    mantissa_bits: int = 2
    specials: str = "ieee"
    saturate: bool = False
    subnormals: bool = True

    def __post_init__(self):
        _check_int(self, "exponent_bits", 2, 8)
        _check_int(self, "mantissa_bits", 0, 23)
        if self.specials not in ("ieee", "fn", "finite", "dlfloat"):
            raise ValueError(
                f"specials = {self.specials!r} must be 'ieee', 'fn', 'finite' or 'dlfloat'"
            )
        if self.exponent_bits == 8 and self.specials != "ieee":
            raise ValueError(
                f"exponent_bits = 8 needs specials = 'ieee', not {self.specials!r}: float32, which "
                "carries the values, has no finite numbers in its top binade"
            )
        if self.specials == "dlfloat":
            if self.mantissa_bits == 0:
                raise ValueError("mantissa_bits = 0 must be at least 1 with specials = 'dlfloat'")
            object.__setattr__(self, "subnormals", False)
        object.__setattr__(self, "saturate", bool(self.saturate))
        object.__setattr__(self, "subnormals", bool(self.subnormals))

    @property
    def bits(self):
        """Word length 1 + e + m."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self):
        """2^(e-1) - 1."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def min_exponent(self):
        """Exponent of the lowest normal binade."""
        return (0 if self.specials == "dlfloat" else 1) - self.bias

    @property
    def max(self):
        """Largest finite value, a Python float."""
        top = 2**self.exponent_bits - 1
        mantissa = 2**self.mantissa_bits - 1
        if self.specials == "ieee":
            top -= 1
        elif self.specials != "finite":  # the all-ones code is taken
            mantissa -= 1
            if mantissa < 0:  # no mantissa bits: the whole top exponent is
                top, mantissa = top - 1, 0
        return 2.0 ** (top - self.bias) * (1 + mantissa / 2**self.mantissa_bits)

    @property
    def min(self):
        """Most negative finite value."""
        return -self.max

    @property
    def smallest(self):
        """Smallest positive value."""
        if self.specials == "dlfloat":
            return 2.0**self.min_exponent * (1 + 2.0**-self.mantissa_bits)
        return 2.0 ** (self.min_exponent - (self.mantissa_bits if self.subnormals else 0))

    @property
    def spec(self):
        """The text that names the format in graphs and SavedModels."""
        return f"float<{self.exponent_bits},{self.mantissa_bits},{self.specials}{self._flags(',')}>"

    def _flags(self, separator):
        flags = separator + "saturate" if self.saturate else ""
        if not self.subnormals and self.specials != "dlfloat":
            flags += separator + "flush"
        return flags

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __str__(self):
        return f"(1,{self.exponent_bits},{self.mantissa_bits}) {self.specials}{self._flags(' ')}"


@tf.keras.utils.register_keras_serializable(_PACKAGE)
@dataclasses.dataclass(frozen=True)
class FixedPointFormat:
    """The fixed-point format <IL, FL> of Gupta et al., 2015.

    Values are ``k * 2^-FL`` with ``-2^(WL-1) <= k <= 2^(WL-1) - 1`` and word length
    ``WL = IL + FL``: the range is ``[-2^(IL-1), 2^(IL-1) - 2^-FL]``. There is one zero, and values
    beyond the range saturate.

    Args:
        integer_bits: IL >= 1, the sign included.
        fractional_bits: FL >= 0. WL is at most 24, so that float32 holds every value.

    Raises:
        ValueError: IL, FL or WL out of range.
    """

    integer_bits: int = 2
    fractional_bits: int = 14

    def __post_init__(self):
        _check_int(self, "integer_bits", 1, 24, " (the sign counts)")
        _check_int(self, "fractional_bits", 0, 23)
        if self.bits > 24:
            raise ValueError(
                f"integer_bits + fractional_bits = {self.bits} must be at most 24: values are "
                "carried in float32"
            )

    @property
    def bits(self):
        """Word length WL = IL + FL."""
        return self.integer_bits + self.fractional_bits

    @property
    def epsilon(self):
        """The grid's spacing, 2^-FL."""
        return 2.0**-self.fractional_bits

    @property
    def smallest(self):
        """Smallest positive value, 2^-FL."""
        return self.epsilon

    @property
    def max(self):
        """2^(IL-1) - 2^-FL."""
        return 2.0 ** (self.integer_bits - 1) - self.epsilon

    @property
    def min(self):
        """-2^(IL-1)."""
        return -(2.0 ** (self.integer_bits - 1))

    @property
    def spec(self):
        """The text that names the format in graphs and SavedModels."""
        return f"fixed<{self.integer_bits},{self.fractional_bits}>"

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __str__(self):
        return f"<{self.integer_bits},{self.fractional_bits}>"


@tf.keras.utils.register_keras_serializable(_PACKAGE)
@dataclasses.dataclass(frozen=True)
class MXFormat:
    """A block format of the OCP Microscaling (MX) specification v1.0.

    Of each `block` consecutive values along an axis (of a product: the one that is summed over), V:
    ``X = 2^max(floor(log2(max |V_i|)) - emax, -127)`` is their shared scale, stored as E8M0, and
    ``P_i = round(V_i / X)`` their elements, with emax the exponent of the element format's largest
    value; the value is ``X P_i``. Elements beyond that value saturate. A block of zeros has
    ``X = 2^-127``; one with a NaN or an infinity is NaN throughout.

    Args:
        element: FloatFormat of the elements, of at most 5 exponent bits.
        block: values that share a scale; the specification's is 32. The last block of an axis may
            be shorter.

    Raises:
        ValueError: an element that is no such format, a block below 1.
    """

    element: FloatFormat = FloatFormat(4, 3, "fn")
    block: int = 32

    def __post_init__(self):
        if not isinstance(self.element, FloatFormat) or self.element.exponent_bits > 5:
            raise ValueError(
                f"element = {self.element!r} must be a tf_lowprec.FloatFormat of at most 5 "
                "exponent bits, such as FP8_E4M3FN"
            )
        _check_int(self, "block", 1, 2**31 - 1)

    @property
    def bits(self):
        """Bits of an element and its share of the scale, a float: 8.25 for MXFP8."""
        return self.element.bits + 8 / self.block

    @property
    def mantissa_bits(self):
        """Of an element."""
        return self.element.mantissa_bits

    @property
    def spec(self):
        """The text that names the format in graphs and SavedModels."""
        return f"mx<{self.block},{self.element.spec}>"

    def get_config(self):
        return {"element": self.element.spec, "block": self.block}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "element": parse_spec(config["element"])})

    def __str__(self):
        return f"MX {self.block} x {self.element}"


FP8_E5M2 = FloatFormat(5, 2)
FP8_E4M3FN = FloatFormat(4, 3, "fn")
FP6_E3M2FN = FloatFormat(3, 2, "finite")
FP6_E2M3FN = FloatFormat(2, 3, "finite")
FP4_E2M1FN = FloatFormat(2, 1, "finite")
FP16 = FloatFormat(5, 10)
BF16 = FloatFormat(8, 7)
TF32 = FloatFormat(8, 10)
DLFLOAT16 = FloatFormat(6, 9, "dlfloat")
FP32 = FloatFormat(8, 23)
MXFP8_E5M2 = MXFormat(FP8_E5M2)
MXFP8_E4M3 = MXFormat(FP8_E4M3FN)
MXFP6_E3M2 = MXFormat(FP6_E3M2FN)
MXFP6_E2M3 = MXFormat(FP6_E2M3FN)
MXFP4_E2M1 = MXFormat(FP4_E2M1FN)


def check_format(format, argument="format", optional=False, blocks=False):
    """`format` itself, if it is a format (or None, or an MXFormat, where those are allowed)."""
    if isinstance(format, (FloatFormat, FixedPointFormat)) or (optional and format is None):
        return format
    if blocks and isinstance(format, MXFormat):
        return format
    hint = ""
    if isinstance(format, MXFormat):
        hint = ": block formats are for the operands of a Gemm and for lp.quantize_mx"
    raise ValueError(
        f"{argument} = {format!r} must be a tf_lowprec.FloatFormat or FixedPointFormat"
        + (", or MXFormat" if blocks else "")
        + (" or None" if optional else "")
        + hint
    )


_FIXED_SPEC = re.compile(r"fixed<(\d+),(\d+)>")
_MX_SPEC = re.compile(r"mx<(\d+),(float<.*>)>")
_FLOAT_SPEC = re.compile(r"float<(\d+),(\d+),(\w+)(,saturate)?(,flush)?>")


def parse_spec(spec):
    """The format whose `spec` this is."""
    if match := _FIXED_SPEC.fullmatch(spec):
        return FixedPointFormat(int(match[1]), int(match[2]))
    if match := _FLOAT_SPEC.fullmatch(spec):
        return FloatFormat(
            int(match[1]),
            int(match[2]),
            match[3],
            saturate=match[4] is not None,
            subnormals=match[5] is None,
        )
    if match := _MX_SPEC.fullmatch(spec):
        return MXFormat(parse_spec(match[2]), int(match[1]))
    raise ValueError(
        f"spec = {spec!r} must be 'fixed<IL,FL>', 'float<E,M,specials>' or 'mx<block,float<...>>'"
    )
