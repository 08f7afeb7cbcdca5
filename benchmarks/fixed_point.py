"""The experiments of Gupta et al. (2015): fixed point against float32, rounded both ways.

    python benchmarks/fixed_point.py mnist_dnn mnist_cnn cifar10_cnn --minutes 120

Every run goes on where it stopped: after each epoch its model and its test errors are saved in
results/fixed_point/. Writes <network>.json and <network>.png there and prints a table. Runs of one
network take turns, epoch by epoch, so that whatever time allows they can be compared. Table and
picture show what docs/fixed_point/ has of runs that were not trained here.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import tensorflow as tf
from _measure import dataset, machine
from rich.console import Console
from rich.table import Table

import tf_lowprec as lp

PUBLISHED = pathlib.Path(__file__).parents[1] / "docs/fixed_point"
SEED = 1
GIVE_UP = 3  # epochs at chance level, after which a run is called stalled


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: formats as (IL, FL); None is float32."""

    name: str
    weights: tuple | None = None
    outputs: tuple | None = None
    rounding: str | None = None
    last: tuple | None = None  # (epochs, weights, outputs): the paper's last step, in more bits
    after: str | None = None  # the run that the last step goes on from
    epochs: int | None = None  # None: as many as the network's
    update_rounding: str | None = None  # of steps and weights; None: as everything else


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of the paper with its hyper-parameters, and the errors that the paper reports."""

    build: object
    data: object
    epochs: int
    learning_rate: object  # epoch -> rate
    momentum: float
    weight_decay: float
    initial_std: float
    runs: tuple
    published: dict  # test error in %, from memory of the paper: to compare with


def _fixed(integer_bits, fractional_bits, rounding, outputs=None, last=None, epochs=None):
    word = (integer_bits, fractional_bits)
    short = "nearest" if rounding == "nearest_up" else rounding
    name = f"<{integer_bits},{fractional_bits}> {short}"
    after = name if last else None
    if last:
        name += f", last {last[0]} in <{last[1][0]},{last[1][1]}>"
    return Run(name, word, outputs or word, rounding, last, after, epochs)


def _image_data(load, channels):
    def get():
        (x_train, y_train), (x_test, y_test) = load()
        shape = (-1, *x_train.shape[1:3], channels) if channels else (-1, *x_train.shape[1:3])
        scale = np.float32(255)
        return (
            (x_train.reshape(shape) / scale, y_train.ravel()),
            (x_test.reshape(shape) / scale, y_test.ravel()),
        )

    return get


NETWORKS = {
    "mnist_dnn": Network(
        build=lp.models.mnist_dnn,
        data=_image_data(lp.datasets.mnist, 0),
        epochs=20,
        learning_rate=lambda epoch: 0.1,
        momentum=0.0,
        weight_decay=0.0,
        initial_std=0.1,
        runs=(
            Run("float32"),
            _fixed(8, 8, "nearest_up"),
            _fixed(8, 8, "stochastic"),
            _fixed(6, 10, "nearest_up"),
            _fixed(6, 10, "stochastic"),
            _fixed(2, 14, "nearest_up", (6, 10)),
            _fixed(2, 14, "stochastic", (6, 10)),
        ),
        published={"float32": 1.40},
    ),
    "mnist_cnn": Network(
        build=lp.models.mnist_cnn,
        data=_image_data(lp.datasets.mnist, 1),
        epochs=10,
        learning_rate=lambda epoch: 0.1 * 0.95**epoch,
        momentum=0.9,
        weight_decay=5e-4,
        initial_std=0.1,
        runs=(
            Run("float32"),
            _fixed(2, 14, "nearest_up", (6, 10)),
            _fixed(2, 14, "stochastic", (6, 10)),
            _fixed(4, 12, "stochastic", (6, 10)),
            _fixed(6, 10, "nearest_up", epochs=3),
            _fixed(6, 10, "stochastic", epochs=3),
            _fixed(7, 9, "nearest_up", epochs=3),
            _fixed(7, 9, "stochastic", epochs=3),
            _fixed(8, 8, "nearest_up", epochs=3),
            _fixed(8, 8, "stochastic", epochs=3),
        ),
        published={"float32": 0.77, "<2,14> stochastic": 0.83, "<4,12> stochastic": 0.90},
    ),
    "cifar10_cnn": Network(
        build=lp.models.cifar10_cnn,
        data=_image_data(lp.datasets.cifar10, 3),
        epochs=5,
        learning_rate=lambda epoch: 0.01,
        momentum=0.9,
        weight_decay=0.0,
        initial_std=0.05,
        runs=(
            Run("float32"),
            _fixed(2, 14, "nearest_up", (6, 10)),
            _fixed(2, 14, "stochastic", (6, 10)),
            _fixed(4, 12, "stochastic", (6, 10)),
            _fixed(4, 12, "stochastic", (6, 10), last=(2, (4, 16), (6, 12))),
        ),
        published={"float32": 24.6, "<2,14> stochastic": 25.4, "<4,12> stochastic": 28.8},
    ),
}


def policy_of(weights, outputs, rounding):
    return lp.Policy.fixed_point(
        lp.FixedPointFormat(*weights), rounding, activations=lp.FixedPointFormat(*outputs)
    )


def build(network, run, weights=None, outputs=None, sgd=tf.keras.optimizers.SGD):
    """The compiled model of a run, its weights in `weights` (default: the run's)."""
    weights, outputs = weights or run.weights, outputs or run.outputs
    # Weight decay is an L2 penalty, so a part of the gradient.
    optimizer = sgd(network.learning_rate(0), momentum=network.momentum)
    precision = None
    if weights is not None:
        precision = policy_of(weights, outputs, run.rounding)
        format = lp.FixedPointFormat(*weights)
        rounding = run.update_rounding or run.rounding
        optimizer = lp.optimizers.LowPrecision(optimizer, format, rounding, seed=SEED)
    model = network.build(precision, initial_std=network.initial_std, seed=SEED)
    if network.weight_decay:
        for layer in model.layers:
            if hasattr(layer, "kernel_regularizer"):
                layer.kernel_regularizer = tf.keras.regularizers.L2(network.weight_decay / 2)
        model = tf.keras.models.clone_model(model)
    model.compile(
        optimizer,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Training:
    """A run with its state on disk."""

    def __init__(self, network, run, folder):
        self.network, self.run = network, run
        stem = run.name.translate(str.maketrans("<>, ", "____"))
        self.log, self.saved = folder / f"{stem}.json", folder / f"{stem}.keras"
        self.model = None
        self.errors, self.seconds = [], 0.0
        if self.log.exists():
            state = json.loads(self.log.read_text())
            self.errors, self.seconds = state["test_error_percent"], state["seconds"]

    def take_published(self, name):
        """The committed errors, if nothing was trained here: to show, not to go on from."""
        path = PUBLISHED / f"{name}.json"
        if self.errors or not path.exists():
            return
        for run in json.loads(path.read_text())["runs"]:
            if run["name"] == self.run.name:
                self.errors, self.seconds = run["test_error_percent"], run["seconds"]

    @property
    def stalled(self):
        return len(self.errors) >= GIVE_UP and min(self.errors[-GIVE_UP:]) > 80

    @property
    def done(self):
        return self.stalled or len(self.errors) >= (self.run.epochs or self.network.epochs)

    @property
    def waits(self):
        """For the run whose last step this is."""
        return self.run.last is not None and not self.errors

    def go_on_from(self, other):
        """Takes over a run's first epochs where the last step branches off it."""
        if self.waits and len(other.errors) == self.network.epochs - self.run.last[0]:
            shutil.copyfile(other.saved, self.saved)
            self.errors, self.seconds = list(other.errors), other.seconds
            self._write_log()

    def _load(self):
        if self.model is None:
            if self.errors:
                self.model = tf.keras.models.load_model(self.saved)
            else:
                tf.keras.utils.set_random_seed(SEED)
                self.model = build(self.network, self.run)

    def _widen(self):
        """The same weights in the formats of the last epochs."""
        weights = self.model.get_weights()
        self.model = build(self.network, self.run, *self.run.last[1:])
        self.model.set_weights(weights)

    def epoch(self, train, test):
        """Trains one epoch, in an order that is a function of the epoch, and saves."""
        start = time.perf_counter()
        self._load()
        epoch, run = len(self.errors), self.run
        if run.last and epoch == self.network.epochs - run.last[0]:
            self._widen()
        self.model.optimizer.learning_rate = self.network.learning_rate(epoch)
        order = np.random.default_rng((SEED, epoch)).permutation(len(train[0]))
        self.model.fit(dataset(train[0][order], train[1][order], 100), verbose=0)
        _, accuracy = self.model.evaluate(*test, batch_size=500, verbose=0)
        self.errors.append(round(100 * (1 - accuracy), 2))
        self.seconds += time.perf_counter() - start
        partial = self.saved.with_suffix(".partial.keras")
        self.model.save(partial)
        partial.replace(self.saved)
        self._write_log()

    def _write_log(self):
        state = {"test_error_percent": self.errors, "seconds": self.seconds}
        partial = self.log.with_suffix(".partial")
        partial.write_text(json.dumps(state))
        partial.replace(self.log)


def report(name, network, trainings, folder, console):
    """Table, JSON and PNG of one network."""
    table = Table(title=f"{name}: test error in %")
    for column in ("run", "outputs", "epochs", "last", "best", "published", "s per epoch"):
        table.add_column(column, justify="left" if column in ("run", "outputs") else "right")
    runs = []
    for training in trainings:
        training.take_published(name)
        run, errors = training.run, training.errors
        outputs = "float32" if run.outputs is None else str(lp.FixedPointFormat(*run.outputs))
        runs.append(
            {
                "name": run.name,
                "outputs_format": outputs,
                "seed": SEED,
                "test_error_percent": errors,
                "stalled": training.stalled,
                "seconds": round(training.seconds, 1),
            }
        )
        if errors:
            table.add_row(
                run.name,
                outputs,
                str(len(errors)) + (" (stalled)" if training.stalled else ""),
                f"{errors[-1]:.2f}",
                f"{min(errors):.2f}",
                f"{network.published[run.name]:.2f}" if run.name in network.published else "",
                f"{training.seconds / len(errors):.1f}",
            )
    console.print(table)
    result = {
        "command": f"python benchmarks/fixed_point.py {name}",
        "machine": machine(),
        "initial_std": network.initial_std,
        "runs": runs,
    }
    (folder.parent / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, run in enumerate(runs):
        errors = run["test_error_percent"]
        style = "--" if "nearest" in run["name"] else "-"
        color = "k" if run["name"] == "float32" else f"C{i}"
        last = f": {errors[-1]:.2f} %" if errors else ""
        label = run["name"] + last
        axes.plot(range(1, len(errors) + 1), errors, style, color=color, marker=".", label=label)
    axes.set_yscale("log")
    ticks = [0.5, 1, 2, 3, 5, 10, 20, 30, 40, 50, 100]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    shown = [e for run in runs for e in run["test_error_percent"]]
    if shown:
        axes.set_ylim(0.8 * min(shown), 1.2 * max(shown))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("test error, %")
    axes.set_title(f"{name}: 16-bit fixed point (dashed: to nearest)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder.parent / f"{name}.png", dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+", choices=NETWORKS, help="what to train")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="names of runs; default: all")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after about this long")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results/fixed_point"))
    arguments = parser.parse_args()
    names = {run.name for name in arguments.networks for run in NETWORKS[name].runs}
    if unknown := set(arguments.runs or ()) - names:
        parser.error(f"--runs: {sorted(unknown)} must be among {sorted(names)}")
    console = Console()
    deadline = time.monotonic() + 60 * arguments.minutes
    for name in arguments.networks:
        network = NETWORKS[name]
        folder = arguments.results / name
        folder.mkdir(parents=True, exist_ok=True)
        trainings = [Training(network, run, folder) for run in network.runs]
        train, test = network.data()
        try:
            while time.monotonic() < deadline:
                ready = [t for t in trainings if not (t.done or t.waits)]
                if arguments.runs:
                    ready = [t for t in ready if t.run.name in arguments.runs]
                if not ready:
                    break
                training = min(ready, key=lambda t: len(t.errors))
                training.epoch(train, test)
                for other in trainings:
                    if other.run.after == training.run.name:
                        other.go_on_from(training)
                epoch, error = len(training.errors), training.errors[-1]
                console.print(f"{name} {training.run.name}: epoch {epoch}: {error:.2f} %")
        except KeyboardInterrupt:
            console.print("Interrupted: what is done is saved; the same command goes on.")
            deadline = 0
        report(name, network, trainings, folder, console)


if __name__ == "__main__":
    main()
