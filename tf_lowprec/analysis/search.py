"""analysis.search: accumulator widths per layer and pass by measurement and short trainings."""

import dataclasses
import json
import numbers
import pathlib

import numpy as np
import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.analysis.batch import Batch, check_loss_scale
from tf_lowprec.analysis.plan import Plan
from tf_lowprec.analysis.planner import LAST_LAYER, Rules, plan
from tf_lowprec.analysis.report import json_text
from tf_lowprec.analysis.trace import trace
from tf_lowprec.analysis.vrr import check_batch_size, check_count, check_seed

# Thresholds of noise from which candidates are made: a factor of sqrt(2) apart.
_THRESHOLDS = 2.0 ** (-np.arange(0, 41) / 2)


def total_bits(plan):
    """Accumulator bits of a plan: 1 + exponent bits + mantissa bits, added up over its sums."""
    return sum(1 + plan.exponent_bits + s.mantissa_bits for s in plan.sums)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A plan and how it trains: short trainings that differ in the order of the examples.

    Attributes:
        label: "float32", "closed form", "noise 1.2e-02" (a candidate by its threshold), "refined".
        plan: the Plan, or None of float32.
        bits: `total_bits` of it, None of float32.
        metric: the validation metric, larger is better, a mean over the trainings.
        loss: the validation loss, a mean as well.
        metrics: the metric of each training, by seed.
    """

    label: str
    plan: object
    bits: object
    metric: float
    loss: float
    metrics: tuple

    def get_config(self):
        plan = None if self.plan is None else self.plan.get_config()
        return {**vars(self), "plan": plan}

    @classmethod
    def from_config(cls, config):
        plan = config["plan"] and Plan.from_config(config["plan"])
        return cls(**{**config, "plan": plan, "metrics": tuple(config["metrics"])})


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What `search` found.

    Attributes:
        trials: the Trials, in the order in which they were made.
        metric: its name.
        tolerance: by which a plan's metric may be below the reference's and still count as equal.
    """

    trials: tuple
    metric: str
    tolerance: float

    @property
    def reference(self):
        """The Trial of the closed form's plan."""
        return next(t for t in self.trials if t.label == "closed form")

    @property
    def best(self):
        """The Trial of fewest bits whose metric is not below the reference's, but for tolerance."""
        good = [t for t in self.trials if t.plan is not None and self.is_good(t)]
        return min(good, key=lambda t: (t.bits, -t.metric))

    def is_good(self, trial):
        """Whether a Trial's metric is not below the reference's, but for tolerance."""
        return trial.metric >= self.reference.metric - self.tolerance

    def pareto(self):
        """Trials that no other beats in bits and metric, by bits."""
        front = []
        for trial in sorted(
            (t for t in self.trials if t.plan is not None), key=lambda t: (t.bits, -t.metric)
        ):
            if not front or trial.metric > front[-1].metric:
                front.append(trial)
        return front

    def plot(self, path):
        """Writes a picture: the metric against total accumulator bits."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axis = figure.subplots()
        tried = [t for t in self.trials if t.plan is not None and t.label != "closed form"]
        axis.plot([t.bits for t in tried], [t.metric for t in tried], "o", label="tried")
        front = self.pareto()
        axis.step(
            [t.bits for t in front], [t.metric for t in front], where="post", label="Pareto front"
        )
        reference, best = self.reference, self.best
        axis.plot(reference.bits, reference.metric, "s", ms=9, label="closed form")
        axis.plot(best.bits, best.metric, "*", ms=15, label="best")
        for trial in self.trials:
            if trial.plan is None:
                axis.axhline(trial.metric, color="k", ls="--", lw=1, label="float32")
        axis.set_xlabel("accumulator bits, all layers and passes")
        axis.set_ylabel(f"validation {self.metric} after a short training")
        axis.grid(alpha=0.3)
        axis.legend()
        figure.savefig(path, dpi=120)

    def to_json(self, path=None):
        """The trials with their plans as JSON text; also written to `path`, if given."""
        config = {
            "metric": self.metric,
            "tolerance": self.tolerance,
            "trials": [t.get_config() for t in self.trials],
        }
        text = json.dumps(config, indent=1) + "\n"
        if path is not None:
            pathlib.Path(path).write_text(text)
        return text

    @classmethod
    def from_json(cls, source):
        """The result that `to_json` wrote: from its text, or from the file of that name."""
        try:
            config = json.loads(json_text(source))
            trials = tuple(Trial.from_config(t) for t in config["trials"])
            return cls(trials, config["metric"], config["tolerance"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no result of analysis.search: {error!r}") from None


def search(
    model,
    data,
    budget=12,
    *,
    validation_data,
    batch_size=128,
    steps=None,
    operand=formats.FP8_E5M2,
    chunk=64,
    rounding="nearest_even",
    accumulator_exponent_bits=6,
    last_layer=LAST_LAYER,
    metric="accuracy",
    tolerance=0.002,
    loss_scale=1000.0,
    seed=0,
    repeats=3,
    progress=None,
):
    """Accumulator widths for each layer and pass, fewer than the closed form's at equal accuracy.

    A trial trains a plan `repeats` times, in other orders of the examples, and is judged by the
    mean: one training alone would reward luck. One trial in float32 and one under the plan of the
    VRR (`plan`) come first. The noise that an accumulator of each width adds is then measured on
    the float32-trained model's own sums. For a threshold of noise, a candidate gives every sum the
    fewest bits that stay below it; trials bisect the candidates for the one of fewest bits that is
    as good as the closed form's plan. What is left of the budget takes single bits off it, where
    the measured noise per bit is least, and keeps what is still as good.

    Args:
        model: a built, compiled Keras model that lp.convert can copy; its weights are the start of
            every training, and are left as they are.
        data: (x, y) to train on.
        budget: trials in all, at least 3.
        validation_data: (x, y) to judge by.
        batch_size: examples in a batch.
        steps: batches of a short training; None: one epoch.
        operand, chunk, rounding, accumulator_exponent_bits, last_layer: see `plan`.
        metric: a Keras metric's name, larger is better.
        tolerance: in units of the metric.
        loss_scale: see `optimizers.loss_scaling`.
        seed: of a trial's first training; the others take the next integers. Trainings of the same
            seed see the same batches.
        repeats: trainings of each plan.
        progress: a function of a Trial, called after each.

    Returns:
        A SearchResult.

    Raises:
        ValueError: an argument out of range, a model that is not built or compiled.
    """
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 3:
        raise ValueError(f"budget = {budget!r} must be an integer of at least 3 trials")
    repeats, seed = check_count(repeats, "repeats"), check_seed(seed)
    batch_size = check_batch_size(batch_size)
    if steps is not None:
        steps = check_count(steps, "steps")
    loss_scale = check_loss_scale(loss_scale)
    if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real) or tolerance < 0:
        raise ValueError(f"tolerance = {tolerance!r} must be a number of at least 0")
    for name, pair in (("data", data), ("validation_data", validation_data)):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"{name} must be (x, y), got {type(pair).__name__}")
    if getattr(model, "optimizer", None) is None:
        raise ValueError(f"model {model.name!r} is not compiled: compile it, so that it can train")
    options = {
        "operand": operand,
        "chunk": chunk,
        "rounding": rounding,
        "accumulator_exponent_bits": accumulator_exponent_bits,
        "last_layer": last_layer,
    }
    seeds = range(seed, seed + repeats)
    trainer = _Trainer(model, data, validation_data, batch_size, steps, metric, loss_scale, seeds)
    trials = []

    def attempt(label, candidate):
        known = next((t for t in trials if t.plan == candidate), None)
        if known is not None:
            return known
        trial = trainer.train(label, candidate)
        trials.append(trial)
        if progress is not None:
            progress(trial)
        return trial

    def result():
        return SearchResult(tuple(trials), metric, tolerance)

    attempt("float32", None)
    closed = plan(model, batch_size, **options)
    attempt("closed form", closed)
    noise = _Noise(trainer.trained, closed, data, batch_size, loss_scale, Rules(**options))
    candidates = noise.candidates()
    low, high = 0, len(candidates) - 1  # fewest bits first
    while low <= high and len(trials) < budget:
        middle = (low + high) // 2
        label, candidate = candidates[middle]
        if result().is_good(attempt(label, candidate)):
            high = middle - 1
        else:
            low = middle + 1
    rejected = set()
    while len(trials) < budget:
        best = result().best.plan
        options_left = [o for o in noise.decrements(best) if o[0] not in rejected]
        if not options_left:
            break
        which, candidate = options_left[0]
        if not result().is_good(attempt("refined", candidate)):
            rejected.add(which)
    return result()


class _Trainer:
    def __init__(self, model, data, validation_data, batch_size, steps, metric, loss_scale, seeds):
        self.model, self.metric, self.loss_scale, self.seeds = model, metric, loss_scale, seeds
        self.batch_size, self.validation_data = batch_size, validation_data
        self.x, self.y = (np.asarray(part) for part in data)
        self.examples = len(self.x) if steps is None else min(steps * batch_size, len(self.x))
        self.trained = None

    def train(self, label, candidate):
        found = [self._train_once(candidate, seed) for seed in self.seeds]
        metrics = tuple(f[self.metric] for f in found)
        bits = None if candidate is None else total_bits(candidate)
        loss = float(np.mean([f["loss"] for f in found]))
        return Trial(label, candidate, bits, float(np.mean(metrics)), loss, metrics)

    def _train_once(self, candidate, seed):
        from tf_lowprec.convert import convert
        from tf_lowprec.optimizers import loss_scaling
        from tf_lowprec.precision import Policy

        order = np.random.default_rng(seed).permutation(len(self.x))[: self.examples]
        tf.keras.utils.set_random_seed(seed)
        model = convert(self.model, Policy.float32() if candidate is None else candidate)
        optimizer = type(self.model.optimizer).from_config(self.model.optimizer.get_config())
        scale = self.loss_scale if candidate is not None else 1.0
        model.compile(loss_scaling(optimizer, scale), self.model.loss, metrics=[self.metric])
        x, y = self.x[order], self.y[order]
        model.fit(x, y, self.batch_size, epochs=1, shuffle=False, verbose=0)
        if candidate is None:
            self.trained = model
        found = model.evaluate(*self.validation_data, batch_size=1000, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items()}


class _Noise:
    """Measured noise of each sum by mantissa bits; sums that are not measured stay as planned."""

    def __init__(self, model, closed, data, batch_size, loss_scale, rules):
        self.closed, self.rules = closed, rules
        batch = Batch(model, data, batch_size, None, loss_scale)
        calls = trace(model, batch.specs).calls
        self.table = {}
        widths = range(rules.operand.mantissa_bits, max(s.mantissa_bits for s in closed.sums) + 1)
        for bits in widths:
            measured = batch.measure(self._with({i: bits for i in range(len(closed.sums))}), calls)
            for i, s in enumerate(measured.sums):
                if s.noise is not None:
                    self.table.setdefault(i, {})[bits] = s.noise

    def _with(self, widths):
        sums = [
            s if s.is_last else dataclasses.replace(s, mantissa_bits=widths.get(i, s.mantissa_bits))
            for i, s in enumerate(self.closed.sums)
        ]
        return dataclasses.replace(self.closed, sums=tuple(sums))

    def candidates(self):
        """[(label, Plan)] for each threshold, without repetitions, fewest bits first."""
        found = {}
        for threshold in _THRESHOLDS:
            widths = {}
            for i, noise in self.table.items():
                enough = [bits for bits, value in noise.items() if value <= threshold]
                widths[i] = min(enough, default=self.closed.sums[i].mantissa_bits)
            found.setdefault(self._with(widths), f"noise {threshold:.1e}")
        return sorted(((label, p) for p, label in found.items()), key=lambda c: total_bits(c[1]))

    def decrements(self, plan):
        """[((sum, bits), Plan with that sum one bit narrower)], least added noise first."""
        found = []
        for i, s in enumerate(plan.sums):
            bits = s.mantissa_bits - 1
            if s.is_last or bits not in self.table.get(i, {}):
                continue
            added = self.table[i][bits] - self.table[i].get(bits + 1, 0.0)
            widths = {j: t.mantissa_bits for j, t in enumerate(plan.sums)}
            found.append((added, (i, bits), self._with({**widths, i: bits})))
        found.sort(key=lambda f: f[0])
        return [(which, candidate) for _, which, candidate in found]
