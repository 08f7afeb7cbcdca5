"""What was sent, measured from the packets themselves."""

import dataclasses
import itertools

import tensorflow as tf

from tf_lowprec.distribute import _tf_private

_FIELDS = ("steps", "gradients", "compressed", "bytes", "sent", "skipped")


class Counters:
    """A variable's counters, as one int64 vector that a step adds to."""

    _keys = itertools.count()

    def __init__(self):
        self.key, self.resets = next(self._keys), 0
        shape = [len(_FIELDS)]
        self.values = _tf_private.plain_zeros(shape, tf.int64, "counters", "CPU:0")

    def add(self, **counts):
        row = [tf.cast(counts.get(field, 0), tf.int64) for field in _FIELDS]
        with tf.device("CPU:0"):
            self.values.assign_add(tf.stack(row))

    def reset(self):
        self.values.assign(tf.zeros_like(self.values))
        self.resets += 1

    def read(self):
        return dict(zip(_FIELDS, self.values.numpy().tolist()))


@dataclasses.dataclass(frozen=True)
class GradientStatistics:
    """What was sent for the gradient of one variable since the last reset.

    Attributes:
        name: the variable's path.
        num_elements: of the variable.
        bin_size: None for a variable that is always reduced densely.
        steps: reductions.
        gradients: gradients that went into them: steps times replicas.
        compressed: those of them that were not sent dense, as in warm-up steps.
        bytes: that the replicas sent, headers and checksums included.
        sent: elements among them that AdaComp selected.
        skipped: steps in which a gradient was not finite.
        key, resets: tell the variable apart from others of its name, and what was counted from
            what was before a reset, in `Statistics.since`.
    """

    name: str
    num_elements: int
    bin_size: int | None
    steps: int
    gradients: int
    compressed: int
    bytes: int
    sent: int
    skipped: int
    key: int = dataclasses.field(default=0, compare=False, repr=False)
    resets: int = dataclasses.field(default=0, compare=False, repr=False)

    @property
    def dense_bytes(self):
        """What the same gradients have as float32."""
        return 4 * self.num_elements * self.gradients

    @property
    def ratio(self):
        """The effective compression rate, dense_bytes / bytes."""
        return self.dense_bytes / self.bytes if self.bytes else float("nan")

    @property
    def bytes_per_gradient(self):
        return self.bytes / self.gradients if self.gradients else float("nan")

    @property
    def sent_per_bin(self):
        """Elements sent per bin, of the gradients that were compressed."""
        if self.bin_size is None or not self.compressed:
            return float("nan")
        return self.sent / (self.compressed * -(-self.num_elements // self.bin_size))


@dataclasses.dataclass(frozen=True)
class Statistics:
    """The statistics of all gradients: a list of GradientStatistics, and their totals."""

    gradients: tuple

    def __iter__(self):
        return iter(self.gradients)

    def __len__(self):
        return len(self.gradients)

    def __getitem__(self, name):
        """Of the variable with this path."""
        for gradient in self.gradients:
            if gradient.name == name:
                return gradient
        raise KeyError(f"{name!r} is none of {[g.name for g in self.gradients]}")

    @property
    def bytes(self):
        return sum(g.bytes for g in self.gradients)

    @property
    def dense_bytes(self):
        return sum(g.dense_bytes for g in self.gradients)

    @property
    def ratio(self):
        """Of all gradients together, those that go dense included."""
        return self.dense_bytes / self.bytes if self.bytes else float("nan")

    @property
    def bytes_per_gradient(self):
        """What one replica sends in one step, all gradients that there were together."""
        sent = [g.bytes_per_gradient for g in self.gradients if g.gradients]
        return sum(sent) if sent else float("nan")

    def since(self, before):
        """The difference to earlier Statistics of the same source.

        These may lack variables, and have some that are gone. Where a reset lies between them,
        what there is since the reset.
        """
        earlier = {g.key: g for g in before.gradients}
        gradients = []
        for now in self.gradients:
            old = earlier.get(now.key)
            if old is not None and old.resets == now.resets:
                counts = {f: getattr(now, f) - getattr(old, f) for f in _FIELDS}
                now = dataclasses.replace(now, **counts)
            gradients.append(now)
        return Statistics(tuple(gradients))

    def table(self):
        """As text: a line per variable and one for all."""
        rows = [("variable", "elements", "bin", "bytes/gradient", "sent/bin", "ratio")]
        for g in self.gradients:
            dense = g.bin_size is None
            rows.append(
                (
                    g.name,
                    f"{g.num_elements:,}",
                    "dense" if dense else str(g.bin_size),
                    f"{g.bytes_per_gradient:,.0f}",
                    "" if dense else f"{g.sent_per_bin:.2f}",
                    f"{g.ratio:.1f}",
                )
            )
        elements = sum(g.num_elements for g in self.gradients)
        size = f"{self.bytes_per_gradient:,.0f}"
        rows.append(("all", f"{elements:,}", "", size, "", f"{self.ratio:.1f}"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
            for row in rows
        )


def statistics_of(states):
    """Statistics of some GradientStates, in order."""
    return Statistics(
        tuple(
            GradientStatistics(
                *(s.name, s.num_elements, s.bin_size),
                **s.counters.read(),
                key=s.counters.key,
                resets=s.counters.resets,
            )
            for s in states
        )
    )
