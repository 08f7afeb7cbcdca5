"""A plan: the accumulator width of every sum of a model, as a table, picture, JSON and policies."""

import dataclasses
import json
import numbers
import pathlib
import re

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.analysis import hardware, report
from tf_lowprec.analysis.gemms import PASSES
from tf_lowprec.analysis.tables import plain_text
from tf_lowprec.policy_map import PolicyMap
from tf_lowprec.precision import Accumulator, Gemm, Policy

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class PlannedSum:
    """One kind of sum: of one product of one layer, in one pass.

    Attributes:
        layer: path of the layer: names from the model down, joined by "/".
        kind: class of the layer.
        product: "kernel", "recurrent_kernel"; in attention "query", "scores" and so on.
        which: "FWD", "BWD" or "GRAD".
        n: number of terms.
        nzr: ratio of terms that are not zero; 1.0 where not measured.
        normal: mantissa bits that the rule asks for one sequential sum, None above 23.
        chunked: mantissa bits that it asks for a sum in chunks of `chunk`; None without chunks.
        chunk: terms in a chunk, None for one sequential sum.
        mantissa_bits: of the accumulator that the plan uses.
        operand: format of both operands.
        is_last: a sum of the last layer, whose width is given and not planned.
        vrr, noise: measured on the model's own sums with this accumulator: retained variance, and
            variance of the error over that of the sum; None where not measured.
        macs: multiply-accumulates of all these sums in a training step; None if not known.
    """

    layer: str
    kind: str
    product: str
    which: str
    n: int
    nzr: float
    normal: object
    chunked: object
    chunk: object
    mantissa_bits: int
    operand: formats.FloatFormat
    is_last: bool = False
    vrr: object = None
    noise: object = None
    macs: object = None

    def get_config(self):
        return {**vars(self), "operand": self.operand.spec}

    @classmethod
    def from_config(cls, config):
        bits = config["mantissa_bits"]
        if not isinstance(bits, int) or not 0 <= bits <= 23:
            raise ValueError(f"the plan is damaged: mantissa_bits = {bits!r} must be in 0..23")
        return cls(**{**config, "operand": formats.parse_spec(config["operand"])})


@tf.keras.utils.register_keras_serializable("tf_lowprec")
@dataclasses.dataclass(frozen=True)
class Plan:
    """Accumulator widths of all sums of a model; `plan` makes it, `lp.convert` trains by it.

    Attributes:
        model: the model's name.
        batch_size: for which GRAD's sums are planned.
        sums: the PlannedSums, in the order of the model's calls.
        unknown: (layer path, class, reason) of layers that are not planned, as it is not known
            which products they take.
        rule: "vrr" or "noise"; `threshold` is its cut-off or noise-to-signal ratio.
        chunk: what was asked for: a number of terms, "best" or None.
        rounding: of partial sums.
        exponent_bits: of the accumulators.
        perturbation: bits added to what the rule asks for (the paper's PP).
    """

    model: str
    batch_size: int
    sums: tuple
    unknown: tuple = ()
    rule: str = "vrr"
    threshold: float = 50.0
    chunk: object = 64
    rounding: formats.Rounding = formats.Rounding.NEAREST_EVEN
    exponent_bits: int = 6
    perturbation: int = 0

    def __post_init__(self):
        object.__setattr__(self, "sums", tuple(self.sums))
        object.__setattr__(self, "unknown", tuple(tuple(u) for u in self.unknown))
        object.__setattr__(self, "rounding", formats.Rounding.of(self.rounding))

    @property
    def layers(self):
        """Paths of the planned layers, in order."""
        return tuple(dict.fromkeys(s.layer for s in self.sums))

    def perturb(self, bits):
        """This plan with `bits` more mantissa bits (fewer, if negative) in all but the last layer.

        The paper's precision perturbation: it trains at PP = 0, -1, -2 and so on.

        Raises:
            ValueError: bits is no integer; a width would leave 0..23.
        """
        if isinstance(bits, bool) or not isinstance(bits, numbers.Integral):
            raise ValueError(f"bits = {bits!r} must be an integer such as -1")
        if bits == 0:
            return self  # with what was measured
        bits = int(bits)
        changed = []
        for s in self.sums:
            if not s.is_last:
                width = s.mantissa_bits + bits
                if not 0 <= width <= 23:
                    raise ValueError(
                        f"bits = {bits}: {s.layer} would have {width} mantissa bits in {s.which}; "
                        "it must be 0..23"
                    )
                s = dataclasses.replace(s, mantissa_bits=width, vrr=None, noise=None)
            changed.append(s)
        return dataclasses.replace(self, sums=tuple(changed), perturbation=self.perturbation + bits)

    def policies(self):
        """{layer path: Policy}. A layer of several products gets the widest for each pass.

        In a pass that the layer does not take (BWD of the first one) the policy is FWD's.
        """
        return {path: self._policy(path) for path in self.layers}

    def _policy(self, path):
        def gemm(which):
            sums = [s for s in self.sums if s.layer == path and s.which == which]
            if not sums:
                return gemm(PASSES[0])
            widest = max(sums, key=lambda s: (s.mantissa_bits, s.n))
            accumulator = Accumulator(
                formats.FloatFormat(self.exponent_bits, widest.mantissa_bits),
                widest.chunk,
                self.rounding,
            )
            return Gemm(widest.operand, widest.operand, accumulator)

        return Policy(*(gemm(which) for which in PASSES))

    def policy_map(self):
        """The policies as a PolicyMap by the layers' own names, for `precision=` of a new model.

        Raises:
            ValueError: two layers of one name, in different places, have different policies.
        """
        named = {}
        for path, policy in self.policies().items():
            name = path.rsplit("/", 1)[-1]
            if named.setdefault(name, policy) != policy:
                raise ValueError(
                    f"layers called {name!r} in different places have different widths; give them "
                    "names of their own, or use lp.convert(model, plan)"
                )
        return PolicyMap({re.sub(r"([*?\[])", r"[\1]", k): v for k, v in named.items()})

    def table(self, by_pass=False):
        """A rich.table.Table: lengths and mantissa bits of each product in the three passes.

        Args:
            by_pass: a row for each pass, for narrow terminals.
        """
        return report.table(self, by_pass)

    def hardware(self):
        """Area and energy of the plan's multiply-accumulate units, as a `Hardware`.

        Per layer and for the network, against float32 accumulation, and against one width for all.
        Units are those of docs/hardware.md: FP8 (1,5,2) operands, accumulators (1,6,m) in chunks.

        Raises:
            ValueError: no unit was synthesized for the plan's operands or accumulators.
        """
        return hardware.hardware(self)

    def plot(self, path):
        """Writes a picture: mantissa bits per layer and pass, normal against chunked."""
        report.plot(self, path)

    def __str__(self):
        return plain_text(self.table())

    def get_config(self):
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **config,
            "sums": [s.get_config() for s in self.sums],
            "unknown": [list(u) for u in self.unknown],
            "rounding": self.rounding.value,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "sums": [PlannedSum.from_config(s) for s in config["sums"]]})

    def to_json(self, path=None):
        """The plan as JSON text; also written to `path`, if given."""
        text = json.dumps({"tf_lowprec_plan": _VERSION, **self.get_config()}, indent=1) + "\n"
        if path is not None:
            pathlib.Path(path).write_text(text)
        return text

    @classmethod
    def from_json(cls, source):
        """The plan that `to_json` wrote: from its text, or from the file of that name.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no plan, or one of another version.
        """
        text = report.json_text(source)
        try:
            config = json.loads(text)
            version = config.pop("tf_lowprec_plan")
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"this is no plan of tf_lowprec: {error!r}") from None
        if version != _VERSION:
            raise ValueError(f"the plan has version {version}; this library reads {_VERSION}")
        try:
            return cls.from_config(config)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the plan is damaged: {error!r}") from None
