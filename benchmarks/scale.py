"""Where all-gathered packets stop paying: measured up to 8 workers, computed up to 1,000.

    sudo python benchmarks/scale.py [--workers 2 4 8] [--results results]

All-gathered packets grow with the number of workers, a dense ring does not. The network
784-1000-1000-10 on MNIST, 1.8 M parameters, 32 images per worker:

1. measured: 2, 4 and 8 processes in network namespaces (as in link.py) at 100 Mbit/s each: the
   bytes that an interface sends in a step, and the time in the exchange;
2. packet sizes of 1 to 128 virtual learners (lp.distribute.VirtualLearners), which see what as many
   workers would see;
3. the cost model of tf_lowprec.distribute.cost with these sizes: bytes and seconds per step, and
   the number of workers from which on packets have more bytes than a dense ring.

--skip-measured takes 1. from an earlier run; 2. always is, where there was one.
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from link import BATCH, LINKS, dnn, measure_all, merged

from tf_lowprec.distribute import cost

LEARNERS = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS, WARM_UP = 10, 20


def packet_bytes():
    """{learners: bytes of one learner's packets in one step, the mean over some steps}."""
    import tensorflow as tf

    import tf_lowprec as lp

    (x, y), _ = lp.datasets.mnist()
    x, y = x.astype(np.float32) / 255, y.astype(np.int32)
    found = {}
    for learners in LEARNERS:
        tf.keras.utils.set_random_seed(1)
        model = tf.keras.Sequential(dnn(1000, 1000))
        optimizer = tf.keras.optimizers.SGD(0.02, momentum=0.9)
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        them = lp.distribute.VirtualLearners(
            model, optimizer, loss, learners, lp.distribute.AdaComp()
        )
        draw = np.random.default_rng(1)
        for step in range(WARM_UP + STEPS):
            batch = draw.integers(0, len(x), BATCH * learners)
            them.train_step(x[batch], y[batch])
            if step == WARM_UP - 1:
                them.reset_statistics()
        found[learners] = them.statistics().bytes_per_gradient
        print(f"{learners} learners: {found[learners]:,.0f} bytes", flush=True)
    return found, 4 * model.count_params()


def packet_sizes(kept):
    """packet_bytes, or what an earlier run found."""
    if kept.exists():
        sizes, dense_bytes = json.loads(kept.read_text())
        return {int(learners): size for learners, size in sizes.items()}, dense_bytes
    sizes, dense_bytes = packet_bytes()
    kept.write_text(json.dumps([sizes, dense_bytes]) + "\n")
    return sizes, dense_bytes


def curve(sizes, dense_bytes):
    """Bytes per step for numbers of workers up to 1,000."""
    known = sorted(sizes)
    workers = sorted({*known, *np.unique(np.geomspace(2, 1000, 60).astype(int)).tolist()} - {1})
    packets = [
        float(np.interp(np.log(n), np.log(known), [sizes[k] for k in known])) for n in workers
    ]
    rows = []
    for n, packet in zip(workers, packets):
        row = {"workers": n, "packet bytes": packet}
        for exchange in cost.EXCHANGES:
            row[exchange] = cost.bytes_per_step(exchange, n, dense_bytes, packet)
            for name, rate in LINKS.items():
                link = cost.Link(rate)
                seconds = cost.seconds_per_step(exchange, n, dense_bytes, packet, link)
                row[f"{exchange}, {name}"] = seconds
        rows.append(row)
    return rows


def figure(measured, rows, crossing):
    from _measure import plt

    drawn, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    names = {"dense": "dense ring", "gather": "packets, all-gathered"}
    names["sharded"] = "packets, sharded (not built)"
    colors = {"dense": "tab:blue", "gather": "tab:orange", "plain": "tab:orange"}
    colors["sharded"] = "tab:gray"
    workers = [row["workers"] for row in rows]
    for exchange in cost.EXCHANGES:
        line = [row[exchange] / 1e6 for row in rows]
        left.plot(workers, line, color=colors[exchange], label=names[exchange])
        for name, style in zip(LINKS, (":", "--", "-")) if exchange != "sharded" else ():
            seconds = [row[f"{exchange}, {name}"] for row in rows]
            label = f"{names[exchange]}, {name}"
            right.plot(workers, seconds, style, color=colors[exchange], label=label)
    for row in measured:
        at, color = (row["workers"], row["bytes"] / 1e6), colors[row["exchange"]]
        left.plot(*at, "o", color=color)
        right.plot(row["workers"], row["communication"], "o", color=color)
    left.axvline(crossing, color="gray", linewidth=0.8)
    mark = {"xycoords": ("data", "axes fraction"), "ha": "right", "fontsize": 8}
    left.annotate(f"{crossing:.0f} workers ", (crossing, 0.05), **mark)
    left.set_ylabel("MB that a worker sends in a step")
    right.set_ylabel("s in the exchange (points: measured at 100 Mbit/s)")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log", xlabel="workers")
        ax.legend(fontsize=7)
    return drawn


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--exchanges", nargs="+", default=["dense", "plain"])
    parser.add_argument("--skip-measured", action="store_true")
    parser.add_argument("--only-measured", action="store_true")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    from _measure import new_table, write
    from _netns import Hosts
    from rich.console import Console

    arguments.results.mkdir(parents=True, exist_ok=True)
    kept = arguments.results / "scale_measured.json"
    measured = json.loads(kept.read_text()) if kept.exists() else []
    if not arguments.skip_measured:
        for count in arguments.workers:
            with Hosts(count) as hosts:
                links = {"100 Mbit/s": LINKS["100 Mbit/s"]}
                measured = merged(measured, measure_all(hosts, "small", links, arguments.exchanges))
            kept.write_text(json.dumps(measured, indent=1) + "\n")
    if arguments.only_measured:
        return
    measured = [row for row in measured if row["link"] != "none"]
    sizes, dense_bytes = packet_sizes(arguments.results / "scale_packets.json")
    rows = curve(sizes, dense_bytes)
    largest = cost.break_even_workers(dense_bytes, sizes[max(sizes)])
    made = new_table(
        f"1.8 M parameters, {dense_bytes:,} bytes dense; break-even at {largest:.0f} workers",
        *("workers", "dense: bytes", "packets: bytes", "model: dense", "model: packets"),
        *("dense: exchange", "packets: exchange"),
    )
    for count in sorted({row["workers"] for row in measured}):
        own = {row["exchange"]: row for row in measured if row["workers"] == count}
        model = {
            e: cost.bytes_per_step(e, count, dense_bytes, sizes[count]) for e in cost.EXCHANGES
        }
        made.add_row(
            str(count),
            *(f"{own[e]['bytes']:,.0f}" for e in ("dense", "plain")),
            *(f"{model[e]:,.0f}" for e in ("dense", "gather")),
            *(f"{1000 * own[e]['communication']:,.0f} ms" for e in ("dense", "plain")),
        )
    Console(width=120).print(made)
    values = {
        "dense bytes": dense_bytes,
        "packet bytes by learners": sizes,
        "break-even workers": largest,
        "measured": measured,
        "curve": rows,
    }
    write(arguments.results, "scale", values, figure(measured, rows, largest))


if __name__ == "__main__":
    main()
