"""Training in FP8 with narrow accumulators beside float32: a ResNet and a character LSTM.

    python benchmarks/fp8.py resnet8 char_lstm [--epochs 5]

FP8: E5M2 operands, (1,6,9) accumulators in chunks of 64 in FWD, BWD and GRAD of every layer, and
the loss scaled by 1000 (Sakr et al., 2019); for the LSTM also with each operand scaled to its range
by its largest value. All runs start from the same weights and see the same
batches. ResNet-8 on CIFAR-10: momentum 0.9, weight decay 1e-4, batch 128, learning rate 0.1 that
falls to 0 as a cosine, shifted and mirrored images. Character LSTM: one layer of 256 units on one
million characters of Shakespeare, sequences of 100, batch 64, Adam at 2e-3; the next 100,000
characters are the test set. A run goes on after its last finished epoch, kept in results/fp8/.
Writes fp8.json and fp8.png there.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tf_lowprec as lp

SEED = 1
LOSS_SCALE = 1000.0
POLICIES = {
    "float32": lp.Policy.float32(),
    "FP8, (1,6,9) chunk 64": lp.Policy.fp8(9, chunk=64),
    "the same, operands scaled": lp.Policy.fp8(9, chunk=64, scaling="amax"),
}
STEMS = dict(zip(POLICIES, ("float32", "fp8", "fp8_scaled")))


class Resnet:
    """ResNet-8 on CIFAR-10."""

    title, metric, epochs, batch = "ResNet-8, CIFAR-10", "test error, %", 5, 128
    runs = list(POLICIES)[:2]

    def __init__(self):
        (x, y), (x_test, y_test) = lp.datasets.cifar10()
        mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
        self.x, self.x_test = (((a - mean) / std).astype(np.float32) for a in (x, x_test))
        self.y, self.y_test = (a.ravel().astype(np.int32) for a in (y, y_test))

    def model(self, policy):
        model = lp.models.resnet8(policy, seed=SEED)
        steps = self.epochs * (len(self.x) // self.batch)
        rate = tf.keras.optimizers.schedules.CosineDecay(0.1, steps)
        decay = tf.keras.regularizers.L2(1e-4)
        for layer in model.layers:
            if hasattr(layer, "kernel_regularizer"):
                layer.kernel_regularizer = decay
        optimizer = tf.keras.optimizers.SGD(rate, momentum=0.9)
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return model, lp.optimizers.loss_scaling(optimizer, LOSS_SCALE), loss

    def data(self, epoch):
        """The epoch's batches: a function of its number."""
        rng = np.random.default_rng([SEED, epoch])
        for _ in range(len(self.x) // self.batch):
            pick = rng.integers(0, len(self.x), self.batch)
            padded = np.pad(self.x[pick], ((0, 0), (4, 4), (4, 4), (0, 0)))
            images = np.empty_like(self.x[pick])
            for i, (top, left, mirror) in enumerate(
                zip(*rng.integers(0, 9, (2, self.batch)), rng.integers(0, 2, self.batch))
            ):
                image = padded[i, top : top + 32, left : left + 32]
                images[i] = image[:, ::-1] if mirror else image
            yield images, self.y[pick]

    def test(self, model):
        logits = model.predict(self.x_test, batch_size=500, verbose=0)
        return 100 * float(np.mean(logits.argmax(1) != self.y_test))


class CharLSTM:
    """One LSTM layer that predicts the next character of Shakespeare."""

    title, metric, epochs, batch = "Character LSTM, Shakespeare", "test loss, bits/character", 8, 64
    length, units, train, held_out = 100, 256, 1_000_000, 100_000
    runs = list(POLICIES)

    def __init__(self):
        text = lp.datasets.shakespeare()[: self.train + self.held_out]
        letters = sorted(set(text))
        index = {letter: i for i, letter in enumerate(letters)}
        codes = np.array([index[letter] for letter in text], np.int32)
        self.codes, self.test_codes = codes[: self.train], codes[self.train :]
        self.letters = len(letters)

    def model(self, policy):
        tf.keras.utils.set_random_seed(SEED)
        layers = [
            tf.keras.Input((self.length, self.letters)),
            lp.layers.LSTM(self.units, return_sequences=True, precision=policy, seed=SEED),
            lp.layers.Dense(self.letters, precision=policy, seed=SEED),
        ]
        optimizer = lp.optimizers.loss_scaling(tf.keras.optimizers.Adam(2e-3), LOSS_SCALE)
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return tf.keras.Sequential(layers), optimizer, loss

    def _sequences(self, codes, starts):
        windows = codes[np.asarray(starts)[:, None] + np.arange(self.length + 1)]
        return np.eye(self.letters, dtype=np.float32)[windows[:, :-1]], windows[:, 1:]

    def data(self, epoch):
        rng = np.random.default_rng([SEED, epoch])
        for _ in range(self.train // (self.length * self.batch)):
            yield self._sequences(
                self.codes, rng.integers(0, self.train - self.length - 1, self.batch)
            )

    def test(self, model):
        starts = range(0, self.held_out - self.length, self.length)
        x, y = self._sequences(self.test_codes, starts)
        return model.evaluate(x, y, batch_size=200, verbose=0) / math.log(2)


NETWORKS = {"resnet8": Resnet, "char_lstm": CharLSTM}


def train(network, name, run, folder):
    """The history of one run, continued from what is in `folder`."""
    stem = folder / f"{name}_{STEMS[run]}"
    log = stem.with_suffix(".json")
    history = json.loads(log.read_text()) if log.exists() else {"loss": [], "test": [], "s": []}
    if len(history["test"]) >= network.epochs:
        return history
    model, optimizer, loss = network.model(POLICIES[run])
    model.compile(optimizer, loss)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    if history["test"]:
        optimizer.build(model.trainable_variables)
        checkpoint.read(str(stem)).assert_existing_objects_matched()
    for epoch in range(len(history["test"]), network.epochs):
        start, losses = time.perf_counter(), []
        model.reset_metrics()  # the loss is their mean
        for x, y in network.data(epoch):
            losses.append(model.train_on_batch(x, y))
            done = len(losses)
            if done % 20 == 0:
                print(f"\r{name} {run}: epoch {epoch + 1}, step {done}", end="", flush=True)
        seconds = time.perf_counter() - start
        history["loss"].append(float(losses[-1]))
        history["test"].append(network.test(model))
        history["s"].append(seconds)
        print(f"\r{name} {run}: epoch {epoch + 1}, {history['test'][-1]:.2f}, {seconds:.0f} s")
        checkpoint.write(str(stem))
        partial = log.with_suffix(".new")
        partial.write_text(json.dumps(history))
        partial.replace(log)
    return history


def plot(results, path):
    figure, axes = plt.subplots(1, len(results), figsize=(4.8 * len(results), 3.4), squeeze=False)
    for axis, (name, runs) in zip(axes[0], results.items()):
        for run, style in zip(runs, ("o-", "s--", "^:")):
            values = runs[run]["test"]
            axis.plot(range(1, len(values) + 1), values, style, label=run)
        axis.set(title=NETWORKS[name].title, xlabel="epoch", ylabel=NETWORKS[name].metric)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+", choices=sorted(NETWORKS))
    parser.add_argument("--epochs", type=int, help="default: 5, for char_lstm 8")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    folder = arguments.results / "fp8"
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in arguments.networks:
        network = NETWORKS[name]()
        network.epochs = arguments.epochs or network.epochs
        results[name] = {run: train(network, name, run, folder) for run in network.runs}
    table = Table(title="last epoch")
    for column in ("", "", *POLICIES):
        table.add_column(column)
    for name, runs in results.items():
        values = [f"{runs[run]['test'][-1]:.2f}" if run in runs else "" for run in POLICIES]
        table.add_row(NETWORKS[name].title, NETWORKS[name].metric, *values)
    Console().print(table)
    record = {
        "command": f"python benchmarks/fp8.py {' '.join(arguments.networks)}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}",
        "results": results,
    }
    (folder / "fp8.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(results, folder / "fp8.png")
    print(f"Wrote {folder}/fp8.json and fp8.png")


if __name__ == "__main__":
    main()
