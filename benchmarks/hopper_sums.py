"""What a Hopper tensor core's FP8 sums lose with their length, and which sums of GPT-2 that meets.

    python benchmarks/hopper_sums.py

Accumulator.hopper without promotion and with promotion every 128 and 512 terms, E4M3 operands:
noise-to-signal of sums of products of normal numbers (256 sums), and the mean relative loss of sums
of products of numbers uniform in [0, 1), beside analysis.aligned_noise and aligned_loss. Then the
plan of two blocks of GPT-2 small (width 768, 12 heads, 1024 tokens, batch 32; all are alike).
Writes hopper_sums.json and .png, hopper_plan.json and .png.
"""

import numpy as np
import tensorflow as tf
from _measure import new_table, options, plt, write
from rich.console import Console

import tf_lowprec as lp
from tf_lowprec.analysis import aligned_loss, aligned_noise
from tf_lowprec.analysis.measured import measure

FORMAT = lp.FP8_E4M3FN
PROMOTE = (None, 512, 128)
WIDTH, HEADS, LENGTH, BATCH, WORDS = 768, 12, 1024, 32, 50257


def loss(n, promote):
    """Mean relative loss of 32 sums of terms of one sign."""
    rng = np.random.default_rng(n)
    a, b = (lp.quantize(rng.random(s, np.float32), FORMAT).numpy() for s in ((1, n), (n, 32)))
    gemm = lp.Gemm(FORMAT, FORMAT, lp.Accumulator.hopper(promote))
    return float(1 - np.mean(lp.matmul(a, b, gemm).numpy() / (np.float64(a) @ np.float64(b))))


def gpt2():
    """Two blocks: tokens -> logits."""
    layers = tf.keras.layers
    tokens = tf.keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH)(tokens)
    for i in range(2):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention{i}")(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * WIDTH, activation="gelu", name=f"up{i}")(y)
        x = layers.Add()([x, layers.Dense(WIDTH, name=f"down{i}")(y)])
    return tf.keras.Model(tokens, layers.Dense(WORDS, name="head")(x), name="gpt2")


def main():
    arguments = options(__doc__)
    lengths = [2**e for e in range(7, 18, 2)]
    accumulators = [lp.Accumulator.hopper(p) for p in PROMOTE]
    rows = []
    for n in lengths:
        noise = [m.noise for m in measure(accumulators, None, n, 256, operand=FORMAT)]
        rows.append(
            {
                "n": n,
                "noise": noise,
                "noise_predicted": [aligned_noise(a, n) for a in accumulators],
                "loss": [loss(n, p) for p in PROMOTE],
                "loss_predicted": [aligned_loss(a, n) for a in accumulators],
            }
        )
    names = ["none" if p is None else f"every {p}" for p in PROMOTE]
    table = new_table(
        "measured (predicted)",
        "terms",
        *(f"noise, {m}" for m in names),
        *(f"one sign, {m}" for m in names),
    )
    for row in rows:
        cells = [
            f"{measured:.1e} ({predicted:.1e})"
            for kind in ("noise", "loss")
            for measured, predicted in zip(row[kind], row[f"{kind}_predicted"])
        ]
        table.add_row(f"{row['n']:,}", *cells)
    Console(width=200).print(table)

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, kind, title in (
        (axes[0], "noise", "terms of both signs: noise-to-signal"),
        (axes[1], "loss", "terms of one sign: relative loss"),
    ):
        for i, name in enumerate(names):
            color = f"C{i}"
            axis.loglog(lengths, [r[kind][i] for r in rows], "o-", color=color, label=name)
            axis.loglog(lengths, [r[f"{kind}_predicted"][i] for r in rows], ":", color=color)
        axis.set_xlabel("terms")
        axis.set_title(title)
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(title="promotion (dotted: closed form)")
    write(arguments.results, "hopper_sums", {"rows": rows}, figure)

    plan = lp.analysis.plan(
        gpt2(), BATCH, FORMAT, accumulator=lp.Accumulator.hopper(), relative_loss=1e-2
    )
    Console(width=110).print(plan.table())
    plan.plot(arguments.results / "hopper_plan.png")
    plan.to_json(arguments.results / "hopper_plan.json")


if __name__ == "__main__":
    main()
