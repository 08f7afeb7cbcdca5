"""Kills workers at random, restarts all, and compares every epoch with a run without interruption.

    python benchmarks/kill_test.py [--kills 20] [--workers 2] [--seed 0] [--results results]

Two runs of one training with AdaComp: one that is left alone, and one in which a worker drawn by
lot is killed (SIGKILL), before, during or after an exchange drawn by lot, or at any time; the
survivors end by themselves, and all are started again with lp.distribute.BackupAndRestore. At the
end of each epoch each worker writes down a hash of its weights, its optimizer's variables and its
residues. All must be those of the run without interruption.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import pathlib
import random
import signal
import socket
import sys
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

EPOCHS, STEPS, BATCH = 24, 40, 32
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["numpy", "tensorflow", "tf_lowprec"])
WHERE = ("before", "during", "after", "any time")


# A worker.


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def work(folder):
    """Trains until the end, or until it is killed: as KILL = "STEP WHERE" in the environment."""
    import numpy as np
    import tensorflow as tf

    import tf_lowprec as lp
    from tf_lowprec.distribute import _tf_private
    from tf_lowprec.distribute.collectives import Collectives

    step, _, where = os.environ.get("KILL", "-1 never").partition(" ")
    gather, calls = Collectives.all_gather, [0]

    def count(words):
        calls[0] += 1
        if calls[0] == int(step):
            if where == "before":
                die()
            if where == "during":
                threading.Timer(0.0005, die).start()
        return words

    def end(words):
        if calls[0] == int(step) and where == "after":
            die()
        return words

    def all_gather(self, tensors, options):
        counted = tf.numpy_function(count, [tensors[0]], tf.int32)
        (gathered,) = gather(self, [tf.ensure_shape(counted, tensors[0].shape)], options)
        return [tf.ensure_shape(tf.numpy_function(end, [gathered], tf.int32), gathered.shape)]

    if where in WHERE:
        Collectives.all_gather = all_gather
    strategy = lp.distribute.MultiWorkerMirroredStrategy(lp.distribute.AdaComp(bin_sizes=50))
    x = np.random.default_rng(0).normal(size=(STEPS * BATCH, 20)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int32)
    tf.keras.utils.set_random_seed(1)
    with strategy.scope():
        layers = [tf.keras.layers.Dense(256), tf.keras.layers.BatchNormalization()]
        layers += [tf.keras.layers.ReLU(), tf.keras.layers.Dropout(0.2)]
        layers += [tf.keras.layers.Dense(256, activation="relu"), tf.keras.layers.Dense(2)]
        model = tf.keras.Sequential([tf.keras.Input((20,)), *layers])
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf.keras.optimizers.SGD(0.02, momentum=0.9), loss)
    backup = lp.distribute.BackupAndRestore(folder / "backup", delete_checkpoint=False)

    def examples():
        for batch in np.random.default_rng(backup.epoch).permutation(len(x)).reshape(STEPS, BATCH):
            yield x[batch], y[batch]

    kinds = (tf.TensorSpec((BATCH, 20), tf.float32), tf.TensorSpec((BATCH,), tf.int32))
    dataset = tf.data.Dataset.from_generator(examples, output_signature=kinds)

    class Hashes(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            print("epoch", epoch, flush=True)

        def on_epoch_end(self, epoch, logs=None):
            optimizer = _tf_private.optimizer_variables(model.optimizer)
            states = _tf_private.cross_device_ops_of(strategy).states
            residues = [r.numpy() for state in states for r in state.residues]
            both = [hashlib.sha256(), hashlib.sha256()]
            for v in [*model.variables, *optimizer]:
                both[0].update(np.asarray(_tf_private.copies(v)[0].numpy()).tobytes())
            for r in residues:
                both[1].update(r.tobytes())
            print("hash", epoch, *(h.hexdigest()[:16] for h in both), flush=True)

    model.fit(dataset, epochs=EPOCHS, callbacks=[Hashes(), backup], verbose=0)
    print("done", flush=True)


# All of them.


def run(folder, log, environment):
    """A worker's process: imports are done already, as it is forked from a server that has them."""
    os.environ.update(environment)
    sys.stdout.flush()
    with open(log, "w", buffering=1) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    try:
        work(folder)
    except Exception:
        sys.excepthook(*sys.exc_info())  # which multiprocessing would not call
        sys.stdout.flush()
        os._exit(1)


class Worker:
    """A process, and what it said."""

    def __init__(self, index, ports, folder, kill=None):
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        task = {"type": "worker", "index": index}
        environment = {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": task}),
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "2",
        }
        if kill:
            environment["KILL"] = kill
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.ended = folder / "log", None
        self.log.write_text("")
        self.process = SERVER.Process(target=run, args=(folder, self.log, environment))
        self.process.start()
        self.reader = threading.Thread(target=self._wait, daemon=True)
        self.reader.start()

    def _wait(self):
        self.process.join()
        self.ended = time.monotonic()

    @property
    def lines(self):
        return self.log.read_text(errors="replace").splitlines()

    def hashes(self):
        words = [line.split() for line in self.lines if line.startswith("hash ")]
        return {int(epoch): (weights, residues) for _, epoch, weights, residues in words}

    def error(self):
        """The last line of its traceback that names an error."""
        found = [line for line in self.lines if "Error" in line and not line.startswith(" ")]
        return found[-1][:200] if found else ""


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(count, folder, kills):
    ports = free_ports(count)
    return [Worker(i, ports, folder / str(i), kills.get(i)) for i in range(count)]


def wait(workers, limit):
    """Waits until all have ended; whether they have."""
    deadline = time.monotonic() + limit
    for worker in workers:
        worker.reader.join(max(0, deadline - time.monotonic()))
    late = [worker for worker in workers if worker.ended is None]
    for worker in late:
        worker.process.kill()
    return not late


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=120, help="seconds for survivors to end")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    draw, folder = random.Random(arguments.seed), pathlib.Path(tempfile.mkdtemp())
    undisturbed = start(arguments.workers, folder / "undisturbed", {})
    if not wait(undisturbed, 1800) or any(w.process.exitcode for w in undisturbed):
        raise SystemExit("the run without interruption failed:\n" + undisturbed[0].error())
    want = [worker.hashes() for worker in undisturbed]
    assert len(want[0]) == EPOCHS
    assert all(w[e][0] == want[0][e][0] for w in want for e in w), "workers' weights differ"

    kills, wrong, checked, finished = [], 0, 0, False
    while not finished:
        more = len(kills) < arguments.kills
        victim, where = draw.randrange(arguments.workers), draw.choice(WHERE)
        # An epoch or two further each time, so that the kills reach all of the training.
        step = draw.randrange(1, 2 * EPOCHS * STEPS // arguments.kills + 2)
        plan = {victim: f"{step} {where}"} if more and where != "any time" else {}
        workers = start(arguments.workers, folder / "killed", plan)
        if more and where == "any time":
            while not any(line.startswith("epoch") for line in workers[victim].lines):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 3))
            workers[victim].process.kill()
        clean = wait(workers, arguments.limit if more else 1800)
        for worker, expected in zip(workers, want):
            for epoch, hashes in worker.hashes().items():
                checked += 1
                wrong += hashes != expected[epoch]
        finished = all(worker.process.exitcode == 0 for worker in workers)
        if more and not finished:
            survivors = [w for i, w in enumerate(workers) if i != victim]
            died = workers[victim].ended
            seconds = max((w.ended or time.monotonic()) - died for w in survivors)
            epochs = [e for w in workers for e in w.hashes()]
            kill = {
                "worker": victim,
                "where": where,
                "step": step if where != "any time" else None,
                "epochs done": [len(w.hashes()) for w in workers],
                "last epoch": max(epochs, default=None),
                "survivors ended": clean,
                "seconds": round(seconds, 2),
                "error": survivors[0].error(),
            }
            kills.append(kill)
            print(len(kills), json.dumps(kill), flush=True)
        elif not finished and not more:
            raise SystemExit("a run that nobody killed failed:\n" + workers[0].error())
    final = [worker.hashes()[EPOCHS - 1] == w[EPOCHS - 1] for worker, w in zip(workers, want)]
    seconds = sorted(kill["seconds"] for kill in kills)
    summary = {
        "kills": len(kills),
        "by place": {where: sum(k["where"] == where for k in kills) for where in WHERE},
        "by worker": [sum(k["worker"] == i for k in kills) for i in range(arguments.workers)],
        "survivors that did not end": sum(not k["survivors ended"] for k in kills),
        "seconds until survivors ended": {
            "median": seconds[len(seconds) // 2] if seconds else None,
            "most": seconds[-1] if seconds else None,
        },
        "epochs compared": checked,
        "epochs that differ": wrong,
        "same end on all workers": all(final),
    }
    print(json.dumps(summary, indent=1))
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "kill_test.json"
    path.write_text(json.dumps({"summary": summary, "kills": kills}, indent=1) + "\n")
    print(f"Wrote {path}")
    if wrong or not all(final) or summary["survivors that did not end"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
