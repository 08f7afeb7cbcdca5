"""What one worker does in test_multi_worker.py: scenarios by name, one after the other.

    TF_CONFIG=… python multi_worker_program.py FOLDER SCENARIO …

Writes FOLDER/SCENARIO-INDEX.npz for each.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal as signals
import sys

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.distribute import exchange
from tf_lowprec.distribute.collectives import Collectives

INDEX = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0)
KERAS_3 = hasattr(tf.keras, "random")
SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def adacomp(**settings):
    return lp.distribute.AdaComp(**{"bin_sizes": 50, **settings})


def strategy_of(compression):
    return lp.distribute.MultiWorkerMirroredStrategy(compression, start_timeout_seconds=120)


def data(n=400):
    x = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int32)


def momentum():
    return tf.keras.optimizers.SGD(0.05, momentum=0.9)


def model_under(strategy, make_optimizer=momentum, normalize=True, **compile_arguments):
    tf.keras.utils.set_random_seed(1 + INDEX)  # the chief's weights go to all
    L = tf.keras.layers
    with strategy.scope():
        layers = [tf.keras.Input((8,)), L.Dense(64)]
        layers += [L.BatchNormalization()] if normalize else []
        model = tf.keras.Sequential(
            # Keras 2's Dropout draws from a state that no backup has.
            [*layers, L.ReLU(), *([L.Dropout(0.1)] if KERAS_3 else [])]
            + [L.Dense(64, activation="relu"), L.Dense(2)]
        )
        model.compile(
            make_optimizer(),
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **compile_arguments,
        )
    return model


def fit(model, epochs, **arguments):
    x, y = data()
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **arguments)


def weights(model):
    return {f"weight_{i:02}": w for i, w in enumerate(model.get_weights())}


def residues(strategy):
    parts = [r.numpy() for state in strategy._all_reduce.states for r in state.residues]
    return {f"residue_{i:02}": r for i, r in enumerate(parts)}


def train(compression, evaluate, epochs=8):
    """200 steps, then evaluation and prediction on data that cannot be shared evenly."""
    strategy = strategy_of(compression)
    model = model_under(strategy)
    losses = fit(model, epochs).history["loss"]
    result = weights(model)
    if evaluate:
        x, y = data(65)
        result["evaluated"] = model.evaluate(x, y, batch_size=16, verbose=0)
        result["predicted"] = model.predict(x, batch_size=16, verbose=0)
    return {
        **result,
        "losses": losses,
        "communication": json.dumps(strategy.communication()),
        "is_stock": isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy),
    }


@scenario
def dense():
    return train(None, evaluate=False)


@scenario
def compressed():
    return train(adacomp(), evaluate=True)


@scenario
def several_steps_per_execution():
    strategy = strategy_of(adacomp(encoding="entropy", warmup_steps=6))
    model = model_under(strategy, steps_per_execution=4)
    fit(model, 2)
    steps = [s.steps for s in strategy.statistics()]
    return {**weights(model), "steps": steps}


@scenario
def eager():
    strategy = strategy_of(adacomp())
    model = model_under(strategy, run_eagerly=True)
    x, y = data(32)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    return {**weights(model), "predicted": model.predict(x, batch_size=16, verbose=0)}


@scenario
def custom_loop():
    strategy = strategy_of(adacomp())
    x, y = data(96)
    with strategy.scope():
        tf.keras.utils.set_random_seed(1)
        model = tf.keras.Sequential(
            [tf.keras.Input((8,)), tf.keras.layers.Dense(64), tf.keras.layers.Dense(2)]
        )
        optimizer = tf.keras.optimizers.SGD(0.05)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)

    @tf.function
    def step(batch):
        def replica(x, y):
            with tf.GradientTape() as tape:
                loss = tf.keras.losses.sparse_categorical_crossentropy(
                    y, model(x, training=True), from_logits=True
                )
                loss = tf.reduce_sum(loss) / 16
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            return loss

        return strategy.reduce("SUM", strategy.run(replica, batch), axis=None)

    losses = [float(step(b)) for b in strategy.experimental_distribute_dataset(dataset)]
    return {**weights(model), "losses": losses}


@scenario
def not_finite():
    """One worker's gradient overflows: all skip, and halve the scale together."""
    strategy = strategy_of(adacomp())
    wrapper = tf.keras.optimizers if KERAS_3 else tf.keras.mixed_precision

    def make():
        return wrapper.LossScaleOptimizer(tf.keras.optimizers.SGD(0.05), initial_scale=2.0**15)

    model = model_under(strategy, make, normalize=False)
    x, y = data(64)
    x[8 * 2 + 8 + 1] = 1e38  # in the second batch, of the second of two workers
    model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    scale = model.optimizer.dynamic_scale if KERAS_3 else model.optimizer.loss_scale
    return {**weights(model), "scale": float(scale.numpy())}


@scenario
def embedding():
    """And a warning: packets of more than a thousandth of the dense bytes are too many here."""
    before = exchange.RING, exchange.WARN_AFTER
    exchange.RING, exchange.WARN_AFTER = 0.001, 3
    strategy = strategy_of(adacomp(exclude="last"))
    tf.keras.utils.set_random_seed(1)
    with strategy.scope():
        layers = [tf.keras.Input((4,), dtype="int32"), tf.keras.layers.Embedding(500, 16)]
        layers += [tf.keras.layers.Flatten(), tf.keras.layers.Dense(64)]
        model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(400, name="last")])
        model.compile(tf.keras.optimizers.Adam(0.01), "mse")
    x = np.random.default_rng(0).integers(0, 500, (32, 4))
    model.fit(x, np.ones((32, 400), np.float32), batch_size=8, epochs=2, verbose=0)
    exchange.RING, exchange.WARN_AFTER = before
    kinds = [s.bin_size or 0 for s in strategy.statistics()]
    return {**weights(model), "bins": kinds}


@scenario
def reductions():
    """Reductions of a given gradient and of a small one, as the tests can compute them: four, and
    a fifth in which one worker's small one is not finite."""
    strategy = strategy_of(adacomp(encoding="entropy", exclude="none of them"))
    with strategy.scope():
        variables = [tf.Variable(tf.zeros([10, 100])), tf.Variable(tf.zeros([7]))]
    summed = []
    for step in range(5):
        if step == 4:
            own = residues(strategy)["residue_00"]
        rows = np.random.default_rng([step, INDEX]).normal(size=1007).astype(np.float32)
        rows[-1] = np.inf if (step, INDEX) == (4, 1) else rows[-1]
        values = [rows[:1000].reshape(10, 100), rows[1000:]]
        pairs = [
            (
                strategy.experimental_distribute_values_from_function(
                    lambda _, v=v: tf.constant(v)
                ),
                w,
            )
            for v, w in zip(values, variables)
        ]
        results = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)
        parts = [strategy.experimental_local_results(r)[0].numpy().ravel() for r in results]
        summed.append(np.concatenate(parts))
    kept = np.array_equal(own, residues(strategy)["residue_00"])
    counted = [(s.compressed, s.skipped, s.sent_per_bin) for s in strategy.statistics()]
    means = strategy.reduce("MEAN", (tf.constant(1.0 + INDEX), tf.constant([INDEX])), axis=None)
    return {
        **{"summed": summed[:4], f"own_residue_{INDEX}": own, "kept": kept, "own_counts": counted},
        **{"mean": means[0], "means": means[1]},
    }


@scenario
def backup():
    """An uninterrupted run; then one that fails in its third epoch, and one that goes on."""
    folder = pathlib.Path(sys.argv[1]) / "backup"

    class Fail(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    def run(*callbacks):
        strategy = strategy_of(adacomp())
        model = model_under(strategy, lambda: tf.keras.optimizers.Adam(0.01))
        fit(model, 4, callbacks=list(callbacks))
        return {**weights(model), **residues(strategy)}

    straight = run()
    make = lp.distribute.BackupAndRestore
    with contextlib.suppress(InterruptedError):
        run(make(folder), Fail())
    own = folder / f"worker-{INDEX}"
    kept = sorted(p.name for p in own.iterdir())
    if INDEX == 1:  # as if it had been killed before it saved its second epoch
        shutil.rmtree(own / "epoch-2")
    last = make(folder)
    resumed = run(last)
    same = all(np.array_equal(straight[k], resumed[k]) for k in straight)
    return {"same": same, "kept": kept, "left": own.exists(), **weights_only(resumed)}


def weights_only(values):
    return {key: value for key, value in values.items() if key.startswith("weight")}


# What goes wrong.


@scenario
def corrupted():
    """A bit of what the second worker receives is flipped in its sixth step."""
    original, calls = Collectives.all_gather, []

    def flip(words):
        calls.append(0)
        words = words.copy()
        words[30] ^= int(INDEX == 1 and len(calls) == 6)
        return words

    def all_gather(self, tensors, options):
        (gathered,) = original(self, tensors, options)
        return [tf.ensure_shape(tf.numpy_function(flip, [gathered], tf.int32), gathered.shape)]

    Collectives.all_gather = all_gather
    strategy = strategy_of(adacomp())
    fit(model_under(strategy), 2)
    return {}


@scenario
def another_model():
    """The second worker's model has a layer more."""
    strategy = strategy_of(adacomp())
    model = model_under(strategy, normalize=INDEX == 1)
    fit(model, 1)
    return {}


@scenario
def raises():
    """The second worker's program has a bug."""
    strategy = strategy_of(adacomp())

    class Bug(tf.keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if INDEX == 1 and batch == 3:
                raise ZeroDivisionError("a bug of the user's")

    fit(model_under(strategy), 1, callbacks=[Bug()])
    return {}


@scenario
def killed():
    fit_until("kill")
    return {}


@scenario
def stopped():
    fit_until("stop")
    return {}


def fit_until(signal):
    """The second worker gets a signal in its fourth step."""
    strategy = strategy_of(adacomp())

    class Signal(tf.keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if INDEX == 1 and batch == 3:
                os.kill(os.getpid(), getattr(signals, "SIG" + signal.upper()))

    fit(model_under(strategy), 1, callbacks=[Signal()])


def main():
    folder = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:]:
        print(name, flush=True)
        np.savez(folder / f"{name}-{INDEX}.npz", **SCENARIOS[name]())


if __name__ == "__main__":
    main()
