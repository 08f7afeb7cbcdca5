"""AdaComp against dense gradients and top-k: test error and measured bytes, 1 to 128 learners.

    python benchmarks/adacomp_study.py [RUN ...] [--quick] [--list] [--results results]

Runs are named NETWORK-METHOD-LEARNERS[-OPTIMIZER][-EPOCHSepochs], such as mnist_dnn-adacomp-8. Each
finished run has a JSON file, and an unfinished one a checkpoint from its last epoch: the same
command goes on where it was stopped. Runs in the committed docs/adacomp/adacomp_study.json count as
finished: move that file away to train everything. At the end the table, adacomp_study.json and
adacomp_study.png are made of all runs that are finished.

Learners are virtual (lp.distribute.VirtualLearners) and share one batch, so that dense gradients
have the same mean for any number of learners, up to rounding: they are trained with 1 (and once
with 8, to see that). 32 and 128 learners train for fewer epochs, and 8 on three networks for
more as well, each beside a dense run as long.

Methods: dense; adacomp (plain packets are sent; with at most 8 learners the same gradients are
entropy-coded too, to measure those packets: the training would be the same to the bit); top_k
(Dryden et al., 2016: the largest of residue + gradient in each tensor, a 32-bit word each for index
and sign, and the mean of either sign; as many as AdaComp's plain packets have bytes for, in the run
of the same name, which has to be finished first). Bytes are those of the packets themselves.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import platform
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from _spoken_digits import spoken_digits
from rich.console import Console
from rich.table import Table

import tf_lowprec as lp
from tf_lowprec.distribute.virtual_learners import adacomp_codec

L = tf.keras.layers
CHARACTERS, CONTEXT = 96, 50
PUBLISHED = pathlib.Path(__file__).parents[1] / "docs" / "adacomp" / "adacomp_study.json"


# The networks.


def mnist_dnn():
    sizes = (1000, 1000)
    return [L.Flatten(), *(L.Dense(n, activation="relu") for n in sizes), L.Dense(10)]


def mnist_cnn():
    return [
        *(L.Conv2D(32, 5, padding="same", activation="relu"), L.MaxPooling2D()),
        *(L.Conv2D(64, 5, padding="same", activation="relu"), L.MaxPooling2D()),
        *(L.Flatten(), L.Dense(512, activation="relu"), L.Dense(10)),
    ]


def cifar10_cnn():
    layers = []
    for channels in (32, 32, 64):
        layers.append(L.Conv2D(channels, 5, padding="same", activation="relu"))
        layers.append(L.MaxPooling2D(3, 2, padding="same"))
    return [*layers, L.Flatten(), L.Dense(64, activation="relu"), L.Dense(10)]


def resnet(inputs):
    """ResNet-20's plan with 16, 32 and 64 channels, one block less per stage."""

    def unit(x, channels, stride):
        shortcut = x
        if stride > 1 or x.shape[-1] != channels:
            shortcut = L.Conv2D(channels, 1, stride, use_bias=False)(x)
        for nth, step in enumerate((stride, 1)):
            x = L.Conv2D(channels, 3, step, padding="same", use_bias=False)(x)
            x = L.BatchNormalization()(x)
            x = L.ReLU()(x) if nth == 0 else x
        return L.ReLU()(L.Add()([x, shortcut]))

    x = L.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    for channels, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        x = unit(x, channels, stride)
    return L.Dense(10)(L.GlobalAveragePooling2D()(x))


def char_lstm():
    return [
        L.CategoryEncoding(CHARACTERS, output_mode="one_hot"),
        L.LSTM(128, return_sequences=True),
        L.Dense(CHARACTERS),
    ]


def speech_dnn():
    return [L.Flatten(), *(L.Dense(512, activation="relu") for _ in range(4)), L.Dense(10)]


# Their data: (x_train, y_train), (x_test, y_test).


def images(load):
    def loaded():
        (x, y), (x_test, y_test) = load()
        y, y_test = (v.reshape(-1).astype(np.int32) for v in (y, y_test))
        x, x_test = (v.astype(np.float32) / 255 for v in (x, x_test))
        if x.ndim == 3:
            x, x_test = x[..., None], x_test[..., None]
        return (x, y), (x_test, y_test)

    return loaded


def text():
    """Shakespeare in pieces of CONTEXT characters, each labelled with its next one."""
    codes = np.frombuffer(lp.datasets.shakespeare().encode("ascii", "replace"), np.uint8)
    codes = np.where((codes >= 32) & (codes < 127), codes - 31, 0).astype(np.int32)
    count = (codes.size - 1) // CONTEXT
    x, y = (codes[i : i + count * CONTEXT].reshape(count, CONTEXT) for i in (0, 1))
    order = np.random.default_rng(0).permutation(count)
    train, test = order[2000:], order[:2000]
    return (x[train], y[train]), (x[test], y[test])


@dataclasses.dataclass(frozen=True)
class Network:
    layers: object
    data: object
    shape: tuple
    epochs: int
    rate: float  # of SGD with momentum 0.9
    others: tuple = ()  # (learners, epochs) of more runs, each beside a dense one
    adam: bool = False  # whether it is trained with Adam too
    dtype: str = "float32"

    def model(self):
        tf.keras.utils.set_random_seed(1)
        inputs = tf.keras.Input(self.shape, dtype=self.dtype)
        if self.layers is resnet:
            return tf.keras.Model(inputs, resnet(inputs))
        outputs = inputs
        for layer in self.layers():
            outputs = layer(outputs)
        return tf.keras.Model(inputs, outputs)


CIFAR = images(lp.datasets.cifar10)
MANY = ((32, 4), (128, 2))
NETWORKS = {
    "mnist_dnn": Network(mnist_dnn, images(lp.datasets.mnist), (28, 28, 1), 8, 0.05, MANY, True),
    "mnist_cnn": Network(
        mnist_cnn, images(lp.datasets.mnist), (28, 28, 1), 3, 0.05, ((32, 2), (128, 1))
    ),
    "cifar10_cnn": Network(cifar10_cnn, CIFAR, (32, 32, 3), 5, 0.01, ((8, 10), (8, 30))),
    "resnet": Network(resnet, CIFAR, (32, 32, 3), 2, 0.05, ((8, 16),)),
    "char_lstm": Network(
        char_lstm, text, (CONTEXT,), 3, 1.0, ((8, 10), (8, 30), (8, 50)), dtype="int32"
    ),
    "speech_dnn": Network(speech_dnn, spoken_digits, (32, 40), 10, 0.02, adam=True),
}
BATCH = 128


@dataclasses.dataclass(frozen=True)
class Run:
    network: str
    method: str
    learners: int
    optimizer: str = "sgd"
    length: int = 0  # in epochs; 0: the network's

    @property
    def epochs(self):
        return self.length or NETWORKS[self.network].epochs

    def __str__(self):
        name = f"{self.network}-{self.method}-{self.learners}"
        name += f"-{self.optimizer}" if self.optimizer != "sgd" else ""
        return name + (f"-{self.length}epochs" if self.length else "")


def all_runs():
    runs = []
    for name, network in NETWORKS.items():
        runs += [Run(name, "dense", 1), Run(name, "adacomp", 1), Run(name, "adacomp", 8)]
        runs.append(Run(name, "top_k", 8))
        if network.adam:
            runs += [Run(name, "dense", 1, "adam"), Run(name, "adacomp", 8, "adam")]
    runs.append(Run("mnist_dnn", "dense", 8))
    for name, network in NETWORKS.items():
        for learners, epochs in network.others:
            runs.append(Run(name, "dense", 1, length=epochs))
            runs.append(Run(name, "adacomp", learners, length=epochs))
    return runs


# The methods.


def top_k(sizes):
    """Dryden et al.'s compression to as many bytes as `sizes` tells for each variable by order."""
    sizes = iter(sizes)

    def plan(name, shape):
        size = next(sizes)
        if size is None:
            return None
        k = max(1, int(size / 4) - 2)  # two words for the means
        total = math.prod(shape)

        def compress(gradient, residue):
            x = gradient + residue
            _, indices = tf.math.top_k(tf.abs(x), min(k, total), sorted=False)
            chosen = tf.gather(x, indices)
            positive = chosen > 0

            def mean(which):
                return tf.math.divide_no_nan(
                    tf.reduce_sum(tf.where(which, chosen, 0.0)),
                    tf.reduce_sum(tf.cast(which, tf.float32)),
                )

            values = tf.where(positive, mean(positive), mean(~positive))
            sent = tf.scatter_nd(indices[:, None], values, [total])
            return sent, x - sent, 4 * (min(k, total) + 2), min(k, total), tf.constant(False)

        return compress

    return plan


class PlainAndEntropy:
    """AdaComp's compression, which also sums the bytes that entropy-coded packets would have."""

    def __init__(self):
        self.settings, self.bytes = lp.distribute.AdaComp(), {}
        self._codec = adacomp_codec(self.settings)

    def __call__(self, name, shape):
        compress = self._codec(name, shape)
        if compress is None:
            return None
        total = self.bytes[name] = tf.Variable(0, trainable=False, dtype=tf.int64)

        def both(gradient, residue):
            packet, _ = lp.adacomp_encode(
                gradient, residue, compress.bin_size, "entropy", self.settings.soft_threshold
            )
            total.assign_add(4 * tf.size(packet, tf.int64))
            return compress(gradient, residue)

        both.bin_size = compress.bin_size
        return both


def compression(run, folder):
    if run.method == "dense":
        return None
    if run.method == "top_k":
        path = folder / f"{dataclasses.replace(run, method='adacomp')}.json"
        if not path.exists():
            raise SystemExit(f"{run} needs {path.stem}, for as many bytes: run that first")
        gradients = json.loads(path.read_text())["gradients"]
        return top_k(
            [None if g["bin_size"] is None else g["bytes_per_gradient"] for g in gradients]
        )
    return PlainAndEntropy() if run.learners <= 8 else lp.distribute.AdaComp()


# Training.


def error(model, x, y):
    """In per cent, of the outputs' greatest; per character for text."""
    right = [
        np.mean(np.argmax(model(x[i : i + 500], training=False), -1) == y[i : i + 500])
        for i in range(0, len(x), 500)
    ]
    return 100 * (1 - float(np.mean(right)))


def optimizer_of(run, network, steps):
    if run.optimizer == "adam":
        return tf.keras.optimizers.Adam(1e-3)
    # Halved twice, at half and at three quarters of the training.
    rate = tf.keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps // 2, 3 * steps // 4], [network.rate, network.rate / 2, network.rate / 4]
    )
    return tf.keras.optimizers.SGD(rate, momentum=0.9)


def train(run, folder, quick, console):
    network = NETWORKS[run.network]
    (x, y), (x_test, y_test) = network.data()
    if quick:
        x, y, x_test, y_test = x[:1280], y[:1280], x_test[:500], y_test[:500]
    epochs = 2 if quick else run.epochs
    steps = len(x) // BATCH
    model = network.model()
    optimizer = optimizer_of(run, network, steps * epochs)
    compress = compression(run, folder)
    learners = lp.distribute.VirtualLearners(
        model,
        optimizer,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run.learners,
        compress,
    )
    done, errors = tf.Variable(0, trainable=False), []
    counters = {str(i): c for i, c in enumerate(learners.counters())}
    entropy = getattr(compress, "bytes", {})
    checkpoint = tf.train.Checkpoint(
        model=model,
        optimizer=optimizer,
        learners=learners,
        done=done,
        counters=counters,
        entropy=entropy,
    )
    saved = folder / "unfinished" / str(run)
    manager = tf.train.CheckpointManager(checkpoint, str(saved), max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint)
        errors = json.loads((saved / "errors.json").read_text())[: int(done)]
    for epoch in range(int(done), epochs):
        order = np.random.default_rng(epoch).permutation(len(x))  # the same for every run
        losses = []
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            losses.append(learners.train_step(x[batch], y[batch]))
        errors.append(error(model, x_test, y_test))
        console.print(
            f"{run}: epoch {epoch + 1}, loss {np.mean(losses):.4f}, error {errors[-1]:.2f} %"
        )
        done.assign(epoch + 1)
        manager.save()
        (saved / "errors.json").write_text(json.dumps(errors))
    statistics = learners.statistics()
    record = {
        **dataclasses.asdict(run),
        "errors": [round(e, 3) for e in errors],
        "ratio": statistics.ratio,
        "gradients": [
            {
                "name": g.name,
                "elements": g.num_elements,
                "bin_size": g.bin_size,
                "bytes_per_gradient": g.bytes_per_gradient,
                "entropy_bytes_per_gradient": (
                    int(entropy[g.name]) / g.gradients if g.name in entropy else None
                ),
                "sent_per_bin": None if math.isnan(g.sent_per_bin) else g.sent_per_bin,
                "ratio": g.ratio,
            }
            for g in statistics
        ],
    }
    (folder / f"{run}.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(saved, ignore_errors=True)


# What comes of it.


def ratio_of(record, convolutions, of="bytes_per_gradient"):
    """Of all compressed kernels of one kind together; None where `of` was not measured."""
    kind = [
        g for g in record["gradients"] if g["bin_size"] and (g["bin_size"] == 50) == convolutions
    ]
    if not kind or any(g.get(of) is None for g in kind):
        return None
    return 4 * sum(g["elements"] for g in kind) / sum(g[of] for g in kind)


def show(records, console):
    table = Table(title="Test error in per cent, and compression measured from the packets")
    columns = ("run", "error", "best", "convolutions", "other layers", "all gradients")
    entropy = ("convolutions, entropy", "others, entropy")
    for column in columns + entropy:
        name = column == "run"
        table.add_column(column, justify="left" if name else "right", no_wrap=name)
    for name, record in records.items():
        ratios = [ratio_of(record, True), ratio_of(record, False), record["ratio"]]
        ratios += [ratio_of(record, c, "entropy_bytes_per_gradient") for c in (True, False)]
        numbers = [f"{r:.0f}" if r else "" for r in ratios]
        errors = record["errors"]
        table.add_row(name, f"{errors[-1]:.2f}", f"{min(errors):.2f}", *numbers)
    console.print(table)


TITLES = {
    "mnist_dnn": "MNIST DNN",
    "mnist_cnn": "MNIST CNN",
    "cifar10_cnn": "CIFAR-10 CNN",
    "resnet": "ResNet, CIFAR-10",
    "char_lstm": "LSTM, Shakespeare",
    "speech_dnn": "spoken digits",
}


def plot(records, path):
    networks = list(dict.fromkeys(r["network"] for r in records.values()))
    rows = -(-len(networks) // 3)
    figure, grid = plt.subplots(
        rows, 3, figsize=(12, 4.6 * rows), layout="constrained", squeeze=False
    )
    styles = {"dense": "--", "adacomp": "-", "top_k": "-."}

    def setting(record):  # a dense run has the color of the AdaComp run beside it
        return record["optimizer"], len(record["errors"])

    for axes in grid.flat[len(networks) :]:
        axes.set_axis_off()
    for axes, network in zip(grid.flat, networks):
        own = {name: r for name, r in records.items() if r["network"] == network}
        compressed = [name for name, r in own.items() if r["method"] != "dense"]
        colors = {name: f"C{i}" for i, name in enumerate(compressed)}
        usual = setting(own[compressed[0]]) if compressed else None
        beside = {setting(own[name]): color for name, color in colors.items()} | {usual: "black"}
        for name, record in own.items():
            epochs = range(1, len(record["errors"]) + 1)
            label = name.removeprefix(f"{network}-")
            method = record["method"]
            style = ":" if method == "dense" and record["learners"] > 1 else styles[method]
            color = colors.get(name) or beside.get(setting(record), "0.5")
            marker = "x" if method == "dense" else "."
            axes.plot(epochs, record["errors"], style, color=color, marker=marker, label=label)
        axes.set_title(TITLES[network])
        axes.set_xlabel("epoch")
        axes.set_ylabel("test error, %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names, or beginnings; default: all")
    parser.add_argument("--quick", action="store_true", help="ten steps, two epochs, to try it out")
    parser.add_argument("--list", action="store_true", help="print the names of the runs")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    runs = [r for r in all_runs() if not arguments.runs or str(r).startswith(tuple(arguments.runs))]
    if arguments.list or not runs:
        print("\n".join(map(str, runs or all_runs())))
        return
    console = Console()
    folder = arguments.results / ("adacomp_study_quick" if arguments.quick else "adacomp_study")
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.quick and PUBLISHED.exists():
        published = json.loads(PUBLISHED.read_text())["runs"]
        for run in all_runs():
            path, record = folder / f"{run}.json", published.get(str(run))
            if not path.exists() and record and len(record["errors"]) == run.epochs:
                path.write_text(json.dumps(record, indent=1) + "\n")
    for run in runs:
        if not (folder / f"{run}.json").exists():
            train(run, folder, arguments.quick, console)
    finished = [r for r in all_runs() if (folder / f"{r}.json").exists()]
    records = {str(r): json.loads((folder / f"{r}.json").read_text()) for r in finished}
    show(records, console)
    summary = {
        "command": "python benchmarks/adacomp_study.py" + " --quick" * arguments.quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}",
        "runs": records,
    }
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(summary, indent=1) + "\n")
    plot(records, path.with_suffix(".png"))
    console.print(f"Wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
