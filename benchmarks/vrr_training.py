"""Do planned accumulator widths hold in training? Paired runs against float32.

    python benchmarks/vrr_training.py [--network resnet8] [--seeds 5] [--epochs 4] [--minutes 360]

CIFAR-10, FP8 (E5M2) operands, loss scaled by 1000, the last layer in 16 bits; widths by the paper's
rule at PP = 0, -1, -2, -3, chunked by 64 or not, rounded to nearest and toward zero; and by our
noise rule with 1e-2 and 1e-3, in chunks of 64 and of sqrt(n). A seed fixes initial weights, order
and augmentation, and each seed trains every configuration, so that differences are paired. ResNet-8
of the family, since a ResNet-32 epoch costs 5.6 times as much, and a difference of half a point
needs seeds more than depth.

Every epoch is saved in results/vrr_training/; the same command goes on. What docs/vrr/training.json
holds of the same setting counts as finished. Seeds take turns: whatever time allows, what is
finished is comparable. Writes <network>.json and <network>.png there. Two processes share the work,
one with --part 1/2 and one with --part 2/2; with TF_NUM_INTRAOP_THREADS=1 each keeps to a core.

ImageNet networks: --network resnet18 --dataset my_module:imagenet, a function that returns
(train, test, shape, classes): tf.data.Datasets of (image in [0, 1], label), unbatched. Without
--dataset they train on CIFAR-10 scaled up to --size.
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import os
import pathlib
import platform
import re
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import tf_lowprec as lp
from tf_lowprec._keras import native

PUBLISHED = pathlib.Path(__file__).parents[1] / "docs" / "vrr" / "training.json"
FLOAT32, PAPER = "float32", "PP=0 chunk 64 nearest"  # what the others are compared with
LOSS_SCALE = 1000.0
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
MEAN, STD = np.float32([0.491, 0.482, 0.447]), np.float32([0.247, 0.243, 0.262])
# 97.5 % quantiles of Student's t for 1, 2 ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One way to train: the arguments of analysis.plan, and bits added to what it asks for."""

    name: str
    plan: tuple | None = None  # None: float32
    perturb: int = 0

    def of(self, model, batch_size):
        """The Plan of a model, or None."""
        if self.plan is None:
            return None
        return lp.analysis.plan(model, batch_size, **dict(self.plan)).perturb(self.perturb)


def configurations():
    found = [Configuration(FLOAT32)]
    for rounding, short in (("nearest_even", "nearest"), ("toward_zero", "toward zero")):
        for chunk, kind in ((64, "chunk 64"), (None, "one sum")):
            for pp in (0, -1, -2, -3):
                options = (("chunk", chunk), ("rounding", rounding))
                found.append(Configuration(f"PP={pp} {kind} {short}", options, pp))
    for epsilon in (1e-2, 1e-3):
        for chunk, kind in ((64, "chunk 64"), ("best", "chunk √n")):
            options = (("chunk", chunk), ("rule", "noise"), ("noise_to_signal", epsilon))
            found.append(Configuration(f"noise {epsilon:g} {kind}", options))
    return found


class Cifar10:
    """CIFAR-10, normalized; random flips and crops with 4 pixels of padding, by seed and epoch."""

    classes = 10

    def __init__(self, images, size):
        (x, y), (x_test, y_test) = lp.datasets.cifar10()
        self.x, self.y = self._normal(x[:images]), y[:images].ravel().astype(np.int32)
        self.x_test, self.y_test = self._normal(x_test), y_test.ravel().astype(np.int32)
        self.size = size
        self.shape = (size or 32, size or 32, 3)

    def _normal(self, x):
        return (x / np.float32(255) - MEAN) / STD

    def _sized(self, x):
        return x if self.size in (None, 32) else tf.image.resize(x, self.shape[:2]).numpy()

    def steps(self, batch_size):
        return len(self.x) // batch_size

    def train(self, seed, epoch, batch_size):
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(self.x))
        for first in range(0, len(order) - batch_size + 1, batch_size):
            batch = order[first : first + batch_size]
            padded = np.pad(self.x[batch], ((0, 0), (4, 4), (4, 4), (0, 0)))
            corners = rng.integers(0, 9, (batch_size, 2))
            x = np.stack([p[i : i + 32, j : j + 32] for p, (i, j) in zip(padded, corners)])
            flips = rng.random(batch_size) < 0.5
            x[flips] = x[flips, :, ::-1]
            yield self._sized(x), self.y[batch]

    def test(self, batch_size):
        for i in range(0, len(self.x_test), batch_size):
            yield self._sized(self.x_test[i : i + batch_size]), self.y_test[i : i + batch_size]


class Pipeline:
    """A user's tf.data.Datasets, reshuffled by seed and epoch; augmentation is theirs."""

    def __init__(self, name):
        module, _, function = name.partition(":")
        make = getattr(importlib.import_module(module), function)
        self.train_set, self.test_set, self.shape, self.classes = make()

    def steps(self, batch_size):
        size = int(self.train_set.cardinality())
        if size < 0:
            raise SystemExit(
                "the training Dataset's size is unknown, and the learning rate decays over it: "
                "tf.data.experimental.assert_cardinality tells it"
            )
        return size // batch_size

    def train(self, seed, epoch, batch_size):
        shuffled = self.train_set.shuffle(10_000, seed=seed * 10_000 + epoch)
        yield from shuffled.batch(batch_size, drop_remainder=True)

    def test(self, batch_size):
        yield from self.test_set.batch(batch_size)


class Training:
    """One configuration and seed, with its state on disk after each epoch."""

    def __init__(self, configuration, seed, data, options, folder):
        self.configuration, self.seed, self.data, self.options = configuration, seed, data, options
        given = [value for value in setting(options).values() if value is not None]
        stem = re.sub(r"[^\w.=-]", "_", "_".join(map(str, [configuration.name, *given, seed])))
        # What is finished has a log; what is not, weights with its state so far in one file.
        self.log, self.saved = folder / f"{stem}.json", folder / f"{stem}.npz"
        self.state = {"errors": [], "losses": [], "seconds": 0.0, "bits": None, "plan": None}
        if self.log.exists():
            self.state = json.loads(self.log.read_text())
        elif self.saved.exists():
            with np.load(self.saved) as arrays:
                self.state = json.loads(str(arrays["state"]))
        self.model = None

    @property
    def done(self):
        return len(self.state["errors"]) >= self.options.epochs

    def _load(self):
        build = getattr(lp.models, self.options.network)
        shape = {}
        if "input_shape" in inspect.signature(build).parameters:
            shape["input_shape"] = self.data.shape
        elif self.data.shape != (32, 32, 3):
            raise SystemExit(f"{self.options.network} takes images of 32x32x3: leave --size out")
        model = build(classes=self.data.classes, seed=self.seed, **shape)
        plan = self.configuration.of(model, self.options.batch_size)
        if plan is not None:
            model = lp.convert(model, plan)
            planned = [s for s in plan.sums if not s.is_last]
            self.state["bits"] = {
                which: round(
                    float(np.mean([s.mantissa_bits for s in planned if s.which == which])), 2
                )
                for which in ("FWD", "BWD", "GRAD")
            }
            self.state["plan"] = [
                [s.layer, s.which, s.n, s.chunk, s.mantissa_bits] for s in planned
            ]
        self.model = model
        self.velocity = [tf.Variable(tf.zeros_like(v)) for v in model.trainable_variables]
        self.rate = tf.Variable(0.0)
        if self.state["errors"]:
            with np.load(self.saved) as arrays:
                values = [arrays[f"arr_{i}"] for i in range(len(arrays.files) - 1)]
            weights = len(model.get_weights())
            model.set_weights(values[:weights])
            for variable, value in zip(self.velocity, values[weights:]):
                variable.assign(value)
        variables = [native(v) for v in model.trainable_variables]
        decayed = ["kernel" in v.name for v in model.trainable_variables]
        loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
                scaled = LOSS_SCALE * loss
            gradients = tape.gradient(scaled, variables)
            for variable, velocity, gradient, decay in zip(
                variables, self.velocity, gradients, decayed
            ):
                gradient = gradient / LOSS_SCALE + (WEIGHT_DECAY * variable if decay else 0.0)
                velocity.assign(MOMENTUM * velocity - self.rate * gradient)
                variable.assign_add(velocity)
            return loss

        @tf.function
        def errors(x, y):
            predicted = tf.argmax(model(x, training=False), -1, output_type=tf.int32)
            return tf.reduce_sum(tf.cast(predicted != tf.cast(y, tf.int32), tf.int32))

        self._step, self._errors = step, errors

    def epoch(self, advance):
        """Trains one epoch, tests, saves."""
        start = time.perf_counter()
        if self.model is None:
            self._load()
        options, epoch = self.options, len(self.state["errors"])
        per_epoch = self.data.steps(options.batch_size)
        total = options.epochs * per_epoch
        losses = []
        for i, (x, y) in enumerate(self.data.train(self.seed, epoch, options.batch_size)):
            if options.steps and i >= options.steps:
                break
            done = (epoch * per_epoch + i) / total
            self.rate.assign(options.rate * 0.5 * (1 + np.cos(np.pi * done)))
            losses.append(self._step(x, y))
            advance()
        wrong = count = 0
        for i, (x, y) in enumerate(self.data.test(500)):
            if options.steps and i >= options.steps:
                break
            wrong, count = wrong + int(self._errors(x, y)), count + len(y)
        self.state["errors"].append(round(100 * wrong / count, 3))
        self.state["losses"].append(round(float(np.mean(losses)), 5))
        self.state["seconds"] += time.perf_counter() - start
        state = json.dumps(self.state)
        partial = self.saved.with_suffix(".partial.npz")
        arrays = [*self.model.get_weights(), *[v.numpy() for v in self.velocity]]
        np.savez(partial, *arrays, state=np.array(state))
        partial.replace(self.saved)
        if self.done:
            self.model = None
            partial = self.log.with_suffix(".partial")
            partial.write_text(state)
            partial.replace(self.log)
            self.saved.unlink()


def setting(options):
    """What has to be equal for two runs to be comparable."""
    names = ("network", "epochs", "images", "batch_size", "rate", "steps", "size", "dataset")
    return {name: getattr(options, name) for name in names}


def take_published(trainings, options):
    """Marks as done what was trained in another session and is committed."""
    if not PUBLISHED.exists():
        return
    record = json.loads(PUBLISHED.read_text())
    if record["setting"] != setting(options):
        return
    runs = {run["name"]: run for run in record["runs"]}
    for training in trainings:
        run = runs.get(training.configuration.name)
        if run and str(training.seed) in run["curves"]:
            training.state = {
                "errors": run["curves"][str(training.seed)],
                "seconds": run["seconds"],
                "bits": run["bits"],
                "plan": run["plan"],
            }


def mean_interval(values):
    """Mean, and half its 95 % interval by Student's t; None of one value."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), None
    quantile = STUDENT[min(len(values) - 2, len(STUDENT) - 1)]
    return float(values.mean()), float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def summarize(trainings):
    """One record for each configuration: errors, paired differences to float32 and to PAPER."""
    last = {}
    for training in trainings:
        if training.done:
            name = training.configuration.name
            last.setdefault(name, {})[training.seed] = training.state["errors"][-1]

    def difference(mine, name):
        """(mean, half interval) over the seeds that both have trained; None where there is none."""
        other = last.get(name, {})
        paired = [mine[s] - other[s] for s in sorted(set(mine) & set(other))]
        return mean_interval(paired) if paired else (None, None)

    records = []
    for configuration in dict.fromkeys(t.configuration for t in trainings):
        mine = last.get(configuration.name)
        if not mine:
            continue
        runs = [t for t in trainings if t.configuration == configuration and t.done]
        to_float32, to_paper = difference(mine, FLOAT32), difference(mine, PAPER)
        records.append(
            {
                "name": configuration.name,
                "bits": runs[0].state["bits"],
                "plan": runs[0].state["plan"],
                "test_error_percent": {s: mine[s] for s in sorted(mine)},
                "mean_error": mean_interval(list(mine.values()))[0],
                "difference": to_float32[0],
                "half_interval": to_float32[1],
                "difference_to_paper": to_paper[0],
                "half_interval_to_paper": to_paper[1],
                "seconds": round(float(np.mean([t.state["seconds"] for t in runs])), 1),
                "curves": {t.seed: t.state["errors"] for t in runs},
            }
        )
    return records


def as_text(mean, half):
    if mean is None:
        return ""
    return f"{mean:+.2f}" + ("" if half is None else f" ± {half:.2f}")


def report(records, options, folder, console):
    table = Table(title=f"{options.network}: test error in % after {options.epochs} epochs")
    columns = ("bits FWD", "BWD", "GRAD", "seeds", "error", "minus float32", "minus PP=0", "s")
    for column in ("run", *columns):
        table.add_column(column, justify="left" if column == "run" else "right")
    for r in records:
        bits = (
            ["" for _ in range(3)]
            if r["bits"] is None
            else [f"{b:.1f}" for b in r["bits"].values()]
        )
        differences = [
            "" if r["name"] == name else as_text(r["difference" + to], r["half_interval" + to])
            for name, to in ((FLOAT32, ""), (PAPER, "_to_paper"))
        ]
        table.add_row(
            r["name"], *bits, str(len(r["test_error_percent"])), f"{r['mean_error']:.2f}",
            *differences, f"{r['seconds']:.0f}",
        )  # fmt: skip
    console.print(table)
    record = {
        "command": "python benchmarks/vrr_training.py "
        f"--network {options.network} --seeds {options.seeds} --epochs {options.epochs} "
        f"--images {options.images} --batch-size {options.batch_size} --rate {options.rate}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}",
        "setting": setting(options),
        "interval": "95 %, Student's t, of differences paired by seed",
        "runs": records,
    }
    path = folder.parent / f"{options.network}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    plot(records, options, folder.parent / f"{options.network}.png")
    console.print(f"Wrote {path} and {path.with_suffix('.png')}")


def plot(records, options, path):
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, kind in enumerate(("chunk 64 nearest", "one sum nearest", "chunk 64 toward zero",
                              "one sum toward zero")):  # fmt: skip
        points = [
            (pp, r)
            for pp in (0, -1, -2, -3)
            for r in records
            if r["name"] == f"PP={pp} {kind}" and r["difference"] is not None
        ]
        if points:
            axes.errorbar(
                [pp + 0.05 * (i - 1.5) for pp, _ in points],
                [r["difference"] for _, r in points],
                [r["half_interval"] or 0 for _, r in points],
                marker="o", capsize=3, label=kind,
            )  # fmt: skip
    rules = [r for r in records if r["name"].startswith("noise") and r["difference"] is not None]
    for i, r in enumerate(rules):
        axes.errorbar(
            -4 - 0.3 * i, r["difference"], r["half_interval"] or 0, marker="s", capsize=3,
            color=f"C{4 + i}", label=r["name"],
        )  # fmt: skip
    axes.axhline(0, color="k", linewidth=1)
    axes.axhspan(-0.5, 0.5, color="0.92", zorder=0)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xticks([0, -1, -2, -3], ["0", "−1", "−2", "−3"])
    axes.invert_xaxis()
    axes.set_xlabel("bits added to what the paper's rule asks for (PP); squares: our noise rule")
    axes.set_ylabel("test error minus float32's, points")
    axes.set_title(f"{options.network}, {options.epochs} epochs, paired by seed, 95 % intervals")
    axes.grid(alpha=0.3)
    if records:
        axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def part_of(text):
    """(I, N) of "I/N"."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N, like 1/2")
    return int(part), int(parts)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [c.name for c in configurations()]
    parser.add_argument("--network", default="resnet8", help="a function of tf_lowprec.models")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=50_000, help="of CIFAR-10 to train with")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1, help="first learning rate; cosine decay")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after about this long")
    parser.add_argument("--steps", type=int, help="steps in an epoch, for a trial")
    parser.add_argument("--size", type=int, help="side that CIFAR-10 is scaled up to")
    parser.add_argument("--dataset", help="module:function of a tf.data pipeline")
    parser.add_argument(
        "--runs", nargs="+", default=names, metavar="RUN", choices=names,
        help=f"which to train, of: {'; '.join(names)}",
    )  # fmt: skip
    parser.add_argument(
        "--part", type=part_of, default=(1, 1), metavar="I/N", help="train every N-th run only"
    )
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    return parser.parse_args()


def main():
    options = arguments()
    console = Console()
    folder = options.results / "vrr_training" / options.network
    folder.mkdir(parents=True, exist_ok=True)
    data = Pipeline(options.dataset) if options.dataset else Cifar10(options.images, options.size)
    chosen = [c for c in configurations() if c.name in options.runs]

    def known():
        """Every run, with what is finished of it: here, by another part, or published."""
        found = [
            Training(c, seed, data, options, folder)
            for seed in range(1, options.seeds + 1)
            for c in chosen
        ]
        take_published(found, options)
        return found

    part, parts = options.part
    trainings = known()[part - 1 :: parts]
    deadline = time.monotonic() + 60 * options.minutes
    per_epoch = min(data.steps(options.batch_size), options.steps or 10**9)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            done = sum(len(t.state["errors"]) for t in trainings)
            task = progress.add_task(
                "steps",
                total=len(trainings) * options.epochs * per_epoch,
                completed=done * per_epoch,
            )
            for training in trainings:
                while not training.done and time.monotonic() < deadline:
                    name = f"{training.configuration.name}, seed {training.seed}"
                    progress.update(task, description=name)
                    training.epoch(lambda: progress.advance(task))
                    if training.done:
                        console.print(f"{name}: {training.state['errors']}")
    except KeyboardInterrupt:
        console.print("Interrupted: finished epochs are saved; the same command goes on.")
    report(summarize(known()), options, folder, console)


if __name__ == "__main__":
    main()
