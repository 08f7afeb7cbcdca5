"""lp.distribute.AdaComp: which gradients are compressed, and how."""

import collections.abc
import dataclasses
import math
import numbers
import re
import warnings

import tensorflow as tf

from tf_lowprec.ops.adacomp import check_bin_size, check_encoding, check_soft_threshold

CONVOLUTION_BIN, OTHER_BIN = 50, 500


def _patterns(value, argument):
    """A tuple of regular expressions, as strings: a config holds nothing else."""
    value = (value,) if isinstance(value, (str, bytes, re.Pattern)) else value
    if not isinstance(value, collections.abc.Iterable):
        raise ValueError(f"{argument} = {value!r} must be a pattern or a list of patterns")
    return tuple(_pattern(pattern, argument) for pattern in value)


def _pattern(value, argument):
    text = value.pattern if isinstance(value, re.Pattern) else value
    if not isinstance(text, str):
        raise ValueError(f"{argument} has {value!r}, which must be a string, such as 'bias$'")
    try:
        flags = re.compile(text).flags
    except re.error as error:
        raise ValueError(
            f"{argument} has {value!r}, which is no regular expression: {error}"
        ) from None
    if isinstance(value, re.Pattern) and value.flags != flags:
        raise ValueError(
            f"{argument} has {value!r}, whose flags must be part of the string, as in '(?i)bias$'"
        )
    return text


def _count(value, argument):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 0:
        raise ValueError(f"{argument} = {value!r} must be an integer >= 0")
    return int(value)


def default_bin_size(name, shape):
    """50 for convolutions and 500 for all else: Chen et al., 2018, section 4."""
    # Kernels of attention and EinsumDense have three dimensions, as those of Conv1D do.
    convolution = len(shape) > 3 or (len(shape) == 3 and "conv" in name.lower())
    return CONVOLUTION_BIN if convolution else OTHER_BIN


@tf.keras.utils.register_keras_serializable("tf_lowprec")
@dataclasses.dataclass(frozen=True)
class AdaComp:
    """How gradients are compressed: Chen et al., "AdaComp", AAAI 2018.

    A value: immutable, hashable, serializable. What it does to one gradient is in
    `tf_lowprec.adacomp_encode`.

    Args:
        bin_sizes: L_T: None for 50 in convolutions (kernels of 4 or more dimensions, or of 3 where
            the name has "conv") and 500 elsewhere; one integer for all; or a dict of patterns and
            sizes, such as ``{"embedding": 1000, "conv": 64}``. The first pattern (a regular
            expression, searched for in the variable's path, such as "dense_1/kernel") decides;
            a variable that none matches has the default. Compiled patterns are kept as strings.
        exclude: patterns of variables whose gradients are reduced densely.
        warmup_steps: the number of first steps of each variable that are reduced densely; while
            one of an optimizer's variables is in them, so are all.
        encoding: "plain" or "entropy".
        soft_threshold: t in ``H = residue + t * gradient``.
        min_elements: smaller tensors are reduced densely: their packet's header would cost more
            than it saves, or nearly.

    Raises:
        ValueError: a wrong argument; it names the argument, its value, and what is allowed.
    """

    bin_sizes: object = None
    exclude: tuple = ()
    warmup_steps: int = 0
    encoding: str = "plain"
    soft_threshold: float = 2.0
    min_elements: int = 256

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        sizes = self.bin_sizes
        if isinstance(sizes, collections.abc.Mapping):
            sizes = tuple(sizes.items())
        if isinstance(sizes, (list, tuple)):
            if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in sizes):
                raise ValueError(
                    f"bin_sizes = {sizes!r} must be None, an integer, or a dict of patterns and "
                    'sizes, such as {"conv": 64}'
                )
            patterns = _patterns([pattern for pattern, _ in sizes], "bin_sizes")
            sizes = tuple(
                (p, check_bin_size(size, f"bin_sizes[{p!r}]"))
                for p, (_, size) in zip(patterns, sizes)
            )
        elif sizes is not None:
            sizes = check_bin_size(sizes, "bin_sizes")
        put("bin_sizes", sizes)
        put("exclude", _patterns(self.exclude, "exclude"))
        put("warmup_steps", _count(self.warmup_steps, "warmup_steps"))
        put("min_elements", _count(self.min_elements, "min_elements"))
        check_encoding(self.encoding)
        put("soft_threshold", check_soft_threshold(self.soft_threshold))

    def bin_size_for(self, name, shape):
        """The bin size for a variable of this name and shape; None where it goes dense.

        Args:
            name: the variable's path.
            shape: its shape, fully known.
        """
        shape = tuple(shape)
        if math.prod(shape) < self.min_elements or any(re.search(p, name) for p in self.exclude):
            return None
        if isinstance(self.bin_sizes, int):
            return self.bin_sizes
        for pattern, size in self.bin_sizes or ():
            if re.search(pattern, name):
                return size
        return default_bin_size(name, shape)

    def warn_of_unmatched(self, names, warned):
        """Warns of patterns that are in none of the variables' names: often a slip of the pen.

        Args:
            names: the variables' paths.
            warned: a set of patterns that are not warned of again; these are added.
        """
        shown = sorted(names)[:8] + ["…"] * (len(names) > 8)
        sizes = self.bin_sizes if isinstance(self.bin_sizes, tuple) else ()
        for argument, patterns in (("bin_sizes", [p for p, _ in sizes]), ("exclude", self.exclude)):
            for pattern in patterns:
                if pattern not in warned and not any(re.search(pattern, n) for n in names):
                    warned.add(pattern)
                    warnings.warn(
                        f"{argument}: {pattern!r} matches none of the variables trained so far: "
                        + ", ".join(shown),
                        stacklevel=2,
                    )

    def get_config(self):
        config = dataclasses.asdict(self)
        if isinstance(self.bin_sizes, tuple):
            config["bin_sizes"] = [list(pair) for pair in self.bin_sizes]
        config["exclude"] = list(self.exclude)
        return config

    @classmethod
    def from_config(cls, config):
        return cls(**config)
