"""AdaComp across a slow link: bytes on the wire, communication and step time, against dense.

    sudo python benchmarks/link.py [--workers 2] [--models dnn cnn] [--results results]

Each worker is a process in a network namespace of its own, behind a link that tbf limits in both
directions. One step is measured for each model, link and exchange:

    dense     TensorFlow's ring all-reduce of float32 gradients
    plain     AdaComp, plain packets, one all-gather
    entropy   AdaComp, entropy-coded packets

Bytes are those that a worker's interface sent, by the kernel's counters: headers, acknowledgements
and heartbeats included. Communication is the time in the exchange, waiting for the slower worker
included; encoding and decoding are in the step. Models, on real data, with a batch of 32 per
worker:

    dnn   784-2048-2048-10 on MNIST, 5.8 M parameters
    cnn   three 5x5 convolutions of 32, 32 and 64 channels and two dense layers on CIFAR-10,
          0.15 M parameters
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LINKS = {"10 Mbit/s": 10e6, "100 Mbit/s": 100e6, "1 Gbit/s": 1e9}
EXCHANGES = ("dense", "plain", "entropy")
BATCH, WARM_UP = 32, 30
SECONDS = 4.0  # that one measurement should take


# A worker.


def cnn():
    import tensorflow as tf
    from adacomp_study import cifar10_cnn

    return [tf.keras.Input((32, 32, 3)), *cifar10_cnn()]


def dnn(*sizes):
    import tensorflow as tf

    L = tf.keras.layers
    hidden = [L.Dense(size, activation="relu") for size in sizes]
    return [tf.keras.Input((28, 28)), L.Flatten(), *hidden, L.Dense(10)]


MODELS = {"dnn": lambda: dnn(2048, 2048), "cnn": cnn, "small": lambda: dnn(1000, 1000)}


def trainer(model_name, exchange):
    """(a function that does some steps, the strategy, the number of parameters)."""
    import numpy as np
    import tensorflow as tf

    import tf_lowprec as lp

    compression = None if exchange == "dense" else lp.distribute.AdaComp(encoding=exchange)
    # Heartbeats wait behind the data of a slow exchange.
    strategy = lp.distribute.MultiWorkerMirroredStrategy(compression, heartbeat_timeout_seconds=300)
    data = lp.datasets.cifar10 if model_name == "cnn" else lp.datasets.mnist
    (x, y), _ = data()
    x, y = x.astype(np.float32) / 255, y.astype(np.int32).ravel()
    with strategy.scope():
        tf.keras.utils.set_random_seed(1)
        model = tf.keras.Sequential(MODELS[model_name]())
        optimizer = tf.keras.optimizers.SGD(0.02, momentum=0.9)
    total = BATCH * strategy.num_workers
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60000, seed=1).repeat()
    batches = iter(strategy.experimental_distribute_dataset(dataset.batch(total)))

    def replica(x, y):
        with tf.GradientTape() as tape:
            losses = tf.keras.losses.sparse_categorical_crossentropy(
                y, model(x, training=True), from_logits=True
            )
            loss = tf.reduce_sum(losses) / total
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    @tf.function
    def step(batch):
        strategy.run(replica, batch)
        return tf.constant(0)

    def steps(count):
        for _ in range(count):
            step(next(batches)).numpy()

    return steps, strategy, model.count_params()


def work(model_name):
    """Answers the commands EXCHANGE and STEPS with what these steps took, as JSON."""
    from _netns import bytes_sent

    steps, strategy, parameters = None, None, 0
    for line in sys.stdin:
        words = line.split()
        if words[0] == "exchange":
            steps, strategy, parameters = trainer(model_name, words[1])
            print(json.dumps({"parameters": parameters}), flush=True)
            continue
        before, sent, start = strategy.communication(), bytes_sent(), time.perf_counter()
        steps(int(words[1]))
        seconds, sent = time.perf_counter() - start, bytes_sent() - sent
        after = strategy.communication()
        answer = {key: after[key] - before[key] for key in after}
        answer = {"communication": answer, "seconds": seconds, "sent": sent}
        print(json.dumps(answer), flush=True)


# All of them.


class Workers:
    """Processes in namespaces that do the same at the same time."""

    def __init__(self, hosts, model):
        cluster = {"worker": [f"{hosts.address(i)}:2222" for i in range(hosts.count)]}
        self.hosts, self.processes = hosts, []
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, open as long as they run
        for i in range(hosts.count):
            config = {"cluster": cluster, "task": {"type": "worker", "index": i}}
            threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "2"}
            self.processes.append(
                subprocess.Popen(
                    hosts.command(i, [sys.executable, __file__, "--work", model]),
                    env={**os.environ, **threads, "TF_CONFIG": json.dumps(config)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.errors,
                    text=True,
                )
            )

    def ask(self, command):
        for process in self.processes:
            process.stdin.write(command + "\n")
            process.stdin.flush()
        answers = []
        for process in self.processes:
            line = process.stdout.readline()
            if not line:
                self.errors.seek(0)
                raise SystemExit(f"a worker ended at {command!r}:\n{self.errors.read()[-3000:]}")
            answers.append(json.loads(line))
        return answers

    def close(self):
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait(60)


def measure(workers, count):
    """What one step took and sent, of all workers, over some steps."""
    answers = workers.ask(f"steps {count}")
    return {
        "steps": count,
        "bytes": max(a["sent"] for a in answers) / count,
        "payload": max(a["communication"]["bytes"] for a in answers) / count,
        "second": max(a["communication"]["second"] for a in answers),
        # The slowest worker's waiting is not in the fastest link.
        "communication": min(a["communication"]["seconds"] for a in answers) / count,
        "step": statistics.mean(a["seconds"] for a in answers) / count,
    }


def measure_all(hosts, model, links, exchanges):
    """Rows of measurements, each with its model, exchange and link."""
    workers, rows = Workers(hosts, model), []
    for exchange in exchanges:
        hosts.limit(None)
        parameters = workers.ask(f"exchange {exchange}")[0]["parameters"]
        measure(workers, 4 if exchange == "dense" else WARM_UP)
        unlimited = measure(workers, 5)
        for link, rate in [("none", None), *links.items()]:
            hosts.limit(rate)
            guess = unlimited["step"] + (8 * unlimited["bytes"] / rate if rate else 0)
            count = max(2, min(40, round(SECONDS / guess)))
            row = measure(workers, count)
            row = {"model": model, "parameters": parameters, "exchange": exchange, **row}
            rows.append({**row, "workers": hosts.count, "link": link})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    workers.close()
    return rows


def merged(rows, new):
    """The rows, those that were measured anew in place of the old ones."""
    keys = ("workers", "model", "link", "exchange")
    found = {tuple(row[k] for k in keys): row for row in [*rows, *new]}
    links, models = [*LINKS, "none"], ["dnn", "cnn"]
    return sorted(
        found.values(),
        key=lambda r: (
            models.index(r["model"]) if r["model"] in models else len(models),
            links.index(r["link"]),
            r["workers"],
            EXCHANGES.index(r["exchange"]),
        ),
    )


def table(rows):
    from _measure import new_table

    made = new_table(
        "One step of one worker",
        *("model", "link", "exchange", "bytes sent", "communication", "step"),
        *("bytes: dense is", "communication: dense is", "step: dense is"),
        left=("model", "link", "exchange"),
    )
    dense = {(r["model"], r["link"]): r for r in rows if r["exchange"] == "dense"}
    for row in rows:
        base = dense[row["model"], row["link"]]
        ratios = [f"{base[k] / row[k]:.1f} x" for k in ("bytes", "communication", "step")]
        made.add_row(
            *(row["model"], row["link"], row["exchange"], f"{row['bytes']:,.0f}"),
            *(f"{1000 * row[k]:,.1f} ms" for k in ("communication", "step")),
            *(ratios if row is not base else ["", "", ""]),
        )
    return made


def figure(rows):
    from _measure import plt

    models = sorted({r["model"] for r in rows}, reverse=True)
    drawn, axes = plt.subplots(1, len(models), figsize=(5 * len(models), 4), layout="constrained")
    for ax, model in zip(axes if len(models) > 1 else [axes], models):
        for i, exchange in enumerate(EXCHANGES):
            own = [r for r in rows if r["model"] == model and r["exchange"] == exchange]
            by_link = {r["link"]: r for r in own}
            links = [link for link in (*LINKS, "none") if link in by_link]
            at = [j + 0.27 * (i - 1) for j in range(len(links))]
            total = [1000 * by_link[link]["step"] for link in links]
            bars = ax.bar(at, total, 0.25, label=exchange)
            sent = [1000 * by_link[link]["communication"] for link in links]
            ax.bar(at, sent, 0.25, color="none", edgecolor="black", hatch="///", linewidth=0.5)
            ax.bar_label(bars, [f"{t:,.0f}" for t in total], fontsize=7)
        ax.set_yscale("log")
        ax.set_xticks(range(len(links)), ["no limit" if k == "none" else k for k in links])
        ax.set_ylabel("one step, ms (hatched: in the exchange)")
        millions = next(r["parameters"] for r in rows if r["model"] == model) / 1e6
        ax.set_title(f"{model}, {millions:.2g} M parameters, {rows[0]['workers']} workers")
        ax.legend()
    return drawn


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["dnn", "cnn"])
    parser.add_argument("--exchanges", nargs="+", choices=EXCHANGES, default=list(EXCHANGES))
    parser.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS))
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments.work)
    from _measure import write
    from _netns import Hosts
    from rich.console import Console

    arguments.results.mkdir(parents=True, exist_ok=True)
    path, rows = arguments.results / "link.json", []
    if path.exists():  # what is not measured now stays
        rows = json.loads(path.read_text())["rows"]
    links = {name: LINKS[name] for name in arguments.links}
    with Hosts(arguments.workers) as hosts:
        for model in arguments.models:
            rows = merged(rows, measure_all(hosts, model, links, arguments.exchanges))
    Console(width=120).print(table(rows))
    write(arguments.results, "link", {"rows": rows}, figure(rows))


if __name__ == "__main__":
    main()
