"""Policies by layer name."""

import fnmatch

import tensorflow as tf

from tf_lowprec.precision import Policy, as_policy


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class PolicyMap:
    """The precision of each layer of a model, by patterns of their names.

    A layer takes it as `precision`, and so does `lp.convert`; the first pattern that fits the
    layer's name says which policy it gets. ::

        policies = lp.PolicyMap({"stem*": lp.Policy.float32(), "*": lp.Policy.fp8(9)})
        lp.layers.Conv2D(16, 3, name="stem_conv", precision=policies)

    Args:
        patterns: shell-style patterns ("conv*", "block[12]_*"; upper and lower case differ) and
            their Policy or Gemm: a dict, or a sequence of pairs.
        default: the Policy of layers that no pattern fits.

    Raises:
        ValueError: an argument of the wrong kind.
    """

    def __init__(self, patterns, default=None):
        pairs = patterns.items() if isinstance(patterns, dict) else patterns
        try:
            pairs = [(pattern, precision) for pattern, precision in pairs]
        except (TypeError, ValueError):
            raise ValueError(
                f"patterns = {patterns!r} must be a dict, or pairs, of name patterns and policies"
            ) from None
        for pattern, _ in pairs:
            if not isinstance(pattern, str):
                raise ValueError(f"patterns: {pattern!r} must be a string such as 'conv*'")
        self.patterns = tuple((p, as_policy(v, f"patterns[{p!r}]")) for p, v in pairs)
        self.default = Policy.float32() if default is None else as_policy(default, "default")

    def for_layer(self, name):
        """The Policy of the layer called `name`."""
        for pattern, policy in self.patterns:
            if fnmatch.fnmatchcase(name, pattern):
                return policy
        return self.default

    def __eq__(self, other):
        if not isinstance(other, PolicyMap):
            return NotImplemented
        return (self.patterns, self.default) == (other.patterns, other.default)

    def __hash__(self):
        return hash((self.patterns, self.default))

    def __repr__(self):
        return f"PolicyMap({dict(self.patterns)!r}, default={self.default!r})"

    def get_config(self):
        return {
            "patterns": [[pattern, policy.get_config()] for pattern, policy in self.patterns],
            "default": self.default.get_config(),
        }

    @classmethod
    def from_config(cls, config):
        patterns = [(p, Policy.from_config(c)) for p, c in config["patterns"]]
        return cls(patterns, Policy.from_config(config["default"]))
