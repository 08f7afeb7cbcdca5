"""Does FP8 training of a small transformer need promotion? Trainings under a tensor core's sums.

    python benchmarks/hopper_transformer.py [--steps 300]

A character model of Shakespeare: two blocks of width 64, 4 heads, 64 characters, batches of 16
(GRAD sums over 1024 tokens), Adam at 2e-3. E4M3 operands scaled to their range, in FWD, BWD and
GRAD of every layer, attention's inner products included, under Accumulator.aligned of 32 terms with
m fraction bits and m mantissa bits: m = 13 is the H200's FP8 (Accumulator.hopper). A sum of n terms
at m bits loses what one of 2^(13 - m) n terms (of one sign; 4^(13 - m) n of both) loses at 13, so
that fewer bits stand for the longer sums of larger models. All runs start from the same weights and
see the same batches; finished ones are kept in results/hopper_transformer/. Writes
hopper_transformer.json and .png.
"""

import argparse
import json
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from _measure import machine
from rich.console import Console
from rich.table import Table

import tf_lowprec as lp

SEED = 1
WIDTH, HEADS, BLOCKS, LENGTH, BATCH = 64, 4, 2, 64, 16
EVERY = 50  # steps between evaluations
BITS = (13, 5, 4)


def runs():
    """{name: Policy}."""
    found = {"float32": lp.Policy.float32()}
    for bits in BITS:
        for promote in (None, 128):
            accumulator = lp.Accumulator.aligned(
                32, bits, lp.FloatFormat(8, bits), "toward_zero", promote
            )
            gemm = lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E4M3FN, accumulator, scaling="amax")
            found[f"m{bits}_{promote or 'none'}"] = lp.Policy(gemm, gemm, gemm)
    return found


def build(policy, characters):
    """The model, [batch, LENGTH] of integers -> logits."""
    tf.keras.utils.set_random_seed(SEED)
    tokens = tf.keras.Input((LENGTH,), dtype="int32")
    x = tf.keras.layers.Embedding(characters, WIDTH)(tokens)
    places = tf.keras.layers.Embedding(LENGTH, WIDTH, name="places")
    x = x + places(tf.range(LENGTH)[None])
    for _ in range(BLOCKS):
        y = tf.keras.layers.LayerNormalization()(x)
        attention = lp.layers.MultiHeadAttention(HEADS, WIDTH // HEADS, precision=policy)
        x = x + attention(y, y, use_causal_mask=True)
        y = tf.keras.layers.LayerNormalization()(x)
        y = lp.layers.Dense(4 * WIDTH, activation="relu", precision=policy)(y)
        x = x + lp.layers.Dense(WIDTH, precision=policy)(y)
    x = tf.keras.layers.LayerNormalization()(x)
    return tf.keras.Model(tokens, lp.layers.Dense(characters, precision=policy)(x))


class Text:
    def __init__(self):
        text = lp.datasets.shakespeare()
        self.alphabet = sorted(set(text))
        place = {c: i for i, c in enumerate(self.alphabet)}
        codes = np.array([place[c] for c in text], np.int32)
        self.train, self.test = codes[:1_000_000], codes[1_000_000:]

    def batch(self, codes, rng, size):
        starts = rng.integers(0, len(codes) - LENGTH - 1, size)
        rows = np.stack([codes[s : s + LENGTH + 1] for s in starts])
        return rows[:, :-1], rows[:, 1:]


def train(policy, text, steps):
    """[(step, test loss in bits per character)]."""
    model = build(policy, len(text.alphabet))
    optimizer = tf.keras.optimizers.Adam(2e-3)
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    @tf.function
    def evaluate(x, y):
        return loss_of(y, model(x, training=False))

    batches = np.random.default_rng(SEED)
    test = text.batch(text.test, np.random.default_rng(0), 256)
    losses = []
    for i in range(1, steps + 1):
        step(*map(tf.constant, text.batch(text.train, batches, BATCH)))
        if i % EVERY == 0:
            losses.append((i, float(evaluate(*map(tf.constant, test))) / math.log(2)))
    return losses


def report(done, steps, folder):
    table = Table(title=f"Test loss after {steps} steps, bits per character")
    for column in ("mantissa bits", "no promotion", "every 128 terms"):
        table.add_column(column, justify="right")
    for bits in BITS:
        cells = [done.get(f"m{bits}_{p}") for p in ("none", "128")]
        cells = ["" if c is None else f"{c[-1][1]:.3f}" for c in cells]
        table.add_row(str(bits), *cells)
    table.caption = f"float32: {done['float32'][-1][1]:.3f}" if "float32" in done else ""
    Console(width=100).print(table)

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, promote in zip(axes, ("none", "128")):
        for bits, color in zip(BITS, plt.cm.viridis(np.linspace(0, 0.9, len(BITS)))):
            losses = done.get(f"m{bits}_{promote}")
            if losses:
                axis.plot(*zip(*losses), color=color, label=f"m = {bits}")
        if "float32" in done:
            axis.plot(*zip(*done["float32"]), "k--", label="float32")
        axis.set_title("no promotion" if promote == "none" else "promotion every 128 terms")
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test loss, bits per character")
    axes[1].legend()
    figure.savefig(folder / "hopper_transformer.png", dpi=120)
    record = {
        "command": f"python benchmarks/hopper_transformer.py --steps {steps}",
        "machine": machine(),
        "test_loss_bits": done,
    }
    (folder / "hopper_transformer.json").write_text(json.dumps(record, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--no-training", action="store_true", help="report what is there")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    folder = arguments.results / "hopper_transformer"
    folder.mkdir(parents=True, exist_ok=True)
    text, done = Text(), {}
    for name, policy in runs().items():
        path = folder / f"{name}_{arguments.steps}.json"
        if not path.exists() and arguments.no_training:
            continue
        if not path.exists():
            path.write_text(json.dumps(train(policy, text, arguments.steps)))
        done[name] = json.loads(path.read_text())
        print(name, f"{done[name][-1][1]:.3f}", flush=True)
    report(done, arguments.steps, arguments.results)


if __name__ == "__main__":
    main()
