"""Which format where in one GEMM."""

import dataclasses
import fractions
import json

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.accumulator import Accumulator
from tf_lowprec.formats import Rounding


def span_bits(format):
    """Bits of the largest magnitude of `format`, as an integer multiple of its grid's unit."""
    if isinstance(format, formats.FixedPointFormat):
        return format.bits - 1
    unit = fractions.Fraction(2) ** (format.min_exponent - format.mantissa_bits)
    return int(fractions.Fraction(format.max) / unit).bit_length()


@tf.keras.utils.register_keras_serializable("tf_lowprec")
@dataclasses.dataclass(frozen=True)
class Gemm:
    """The precision of one matrix product (or convolution).

    ``output = round(accumulate(round(lhs) * round(rhs)))``

    Args:
        lhs, rhs: formats to which the operands are rounded; None takes them as they are. An
            MXFormat's blocks run along the axis that is summed over.
        accumulator: an Accumulator. An aligned one needs FloatFormats for both operands; a wide one
            formats whose exact sums float64 holds.
        output: format of the result; None leaves it in float32.
        rounding: how operands and output are rounded.
        scaling: "amax" scales each operand to its format's range: x becomes
            ``round(x 2^k) 2^-k``, k the largest integer with ``max|x| 2^k < 2^T``, where T leaves
            room for 2^20 terms in the accumulator, which adds scaled products; the sum is scaled
            back before it is rounded to `output`. None takes them as they are.

    Raises:
        ValueError: an argument of the wrong kind; a wide accumulator for operands whose exact
            sums float64 cannot hold.
    """

    lhs: object = None
    rhs: object = None
    accumulator: Accumulator = Accumulator.native()
    output: object = None
    rounding: Rounding = Rounding.NEAREST_EVEN
    scaling: object = None

    def __post_init__(self):
        for name in ("lhs", "rhs", "output"):
            blocks = name != "output"
            formats.check_format(getattr(self, name), name, optional=True, blocks=blocks)
        if not isinstance(self.accumulator, Accumulator):
            raise ValueError(
                f"accumulator = {self.accumulator!r} must be a tf_lowprec.Accumulator, such as "
                "Accumulator.native() or Accumulator.wide()"
            )
        object.__setattr__(self, "rounding", Rounding.of(self.rounding))
        if self.scaling not in (None, "amax"):
            raise ValueError(f"scaling = {self.scaling!r} must be 'amax' or None")
        if self.scaling is not None and not all(
            isinstance(format, formats.FloatFormat) for format in (self.lhs, self.rhs)
        ):
            raise ValueError(
                f"scaling = {self.scaling!r} needs FloatFormats for both operands, got "
                f"lhs = {self.lhs}, rhs = {self.rhs}"
            )
        if self.accumulator.kind == "aligned" and not all(
            isinstance(format, formats.FloatFormat) for format in (self.lhs, self.rhs)
        ):
            raise ValueError(
                "an aligned accumulator needs FloatFormats for both operands, since it aligns by "
                f"their exponents, got lhs = {self.lhs}, rhs = {self.rhs}"
            )
        if self.accumulator.kind == "wide" and self.has_blocks:
            raise ValueError(
                f"Accumulator.wide() adds no block formats, got lhs = {self.lhs}, rhs = "
                f"{self.rhs}: use Accumulator.native() or one with a format"
            )
        if self.accumulator.kind == "wide":
            if self.lhs is None or self.rhs is None:
                raise ValueError(
                    f"Accumulator.wide() needs the formats of both operands, got lhs = {self.lhs}, "
                    f"rhs = {self.rhs}: give fixed-point formats, or use Accumulator.native()"
                )
            if self.exact_length < 1:
                raise ValueError(
                    f"lhs = {self.lhs} and rhs = {self.rhs}: their products span more than 53 "
                    "bits, beyond the exact sum of Accumulator.wide(); use narrower formats"
                )

    @property
    def exact_length(self):
        """The longest sum that is exact in 53 bits: 2^(53 - bits of a product).

        For fixed point of one word length this is ``2 WL - 2 + ceil(log2 K) <= 53``.
        """
        product = span_bits(self.lhs) + span_bits(self.rhs)
        return 2 ** (53 - product) if product <= 53 else 0

    def check_length(self, length):
        """ValueError if sums of `length` terms are too long for a wide accumulator."""
        if self.accumulator.kind == "wide" and length > self.exact_length:
            raise ValueError(f"length = {length}: {self.too_long}")

    @property
    def too_long(self):
        """What errors say of sums that are longer than `exact_length`."""
        return (
            f"sums for lhs = {self.lhs} and rhs = {self.rhs} are longer than {self.exact_length}, "
            "the longest that Accumulator.wide() adds exactly in 53 bits: use narrower formats, or "
            "Accumulator.native()"
        )

    @property
    def is_stochastic(self):
        """Whether it draws random numbers."""
        rounds = (self.lhs, self.rhs, self.output) != (None, None, None)
        return self.accumulator.rounding == Rounding.STOCHASTIC or (
            rounds and self.rounding == Rounding.STOCHASTIC
        )

    @property
    def has_blocks(self):
        """Whether an operand is in a block format."""
        return any(isinstance(format, formats.MXFormat) for format in (self.lhs, self.rhs))

    @property
    def is_native(self):
        """Whether this is TensorFlow's own float32 product and nothing else."""
        return self == Gemm(rounding=self.rounding)

    def get_config(self):
        config = {
            "accumulator": self.accumulator.get_config(),
            "rounding": self.rounding.value,
            "scaling": self.scaling,
        }
        for name in ("lhs", "rhs", "output"):
            format = getattr(self, name)
            config[name] = None if format is None else format.spec
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("lhs", "rhs", "output"):
            if config.get(name) is not None:
                config[name] = formats.parse_spec(config[name])
        config["accumulator"] = Accumulator.from_config(config["accumulator"])
        return cls(**config)

    def to_json(self):
        """One line of JSON: what graphs and SavedModels hold."""
        return json.dumps(self.get_config(), sort_keys=True)

    @classmethod
    def from_json(cls, text):
        return cls.from_config(json.loads(text))
