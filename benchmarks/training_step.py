"""A fixed-point training step of the MNIST DNN against the stock Keras float32 step, in one run.

    python benchmarks/training_step.py [--results results]

Median of 7 timings of 100 steps each, taking turns; then what a step is made of, each part timed by
itself on the step's shapes; then where a step's time goes: of 5 profiles of 50 steps the one of
median length. Writes training_step.json.
"""

import collections
import pathlib
import re
import tempfile

import _measure as measure
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import tf_lowprec as lp
from tf_lowprec.ops.wide_matmul import wide_matmul

BATCH, STEPS, TURNS = 100, 100, 7
PROFILED_STEPS, PROFILES = 50, 5
WIDTHS = (784, 1000, 1000, 10)
WEIGHTS, OUTPUTS = lp.FixedPointFormat(2, 14), lp.FixedPointFormat(6, 10)
SEED = (1, 2)


def stock_model():
    layers = [tf.keras.Input((28, 28)), tf.keras.layers.Flatten()]
    layers += [tf.keras.layers.Dense(n, activation="relu") for n in WIDTHS[1:-1]]
    return tf.keras.Sequential([*layers, tf.keras.layers.Dense(WIDTHS[-1])])


def compiled(model, optimizer):
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def stock():
    return compiled(stock_model(), tf.keras.optimizers.SGD(0.1))


def fixed_point():
    policy = lp.Policy.fixed_point(WEIGHTS, activations=OUTPUTS)
    sgd = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), WEIGHTS, seed=1)
    return compiled(lp.models.mnist_dnn(policy, seed=1), sgd)


MODELS = {"stock Keras, float32": stock, "<2,14>, outputs <6,10>, stochastic": fixed_point}


def data(steps):
    rng = np.random.default_rng(0)
    images = rng.random((BATCH * steps, 28, 28), np.float32)
    return images, rng.integers(0, 10, BATCH * steps)


def epoch(model, images, labels):
    return lambda: model.fit(images, labels, batch_size=BATCH, shuffle=False, verbose=0)


def median_ms(functions, calls):
    """Milliseconds per call of each function, the median over turns."""
    times = measure.median_seconds(functions, TURNS, calls, warm_up=1)
    return {name: 1000 * seconds for name, seconds in times.items()}


def parts():
    """What a fixed-point step consists of, as functions of no argument."""
    shapes = list(zip(WIDTHS[:-1], WIDTHS[1:]))
    x = [tf.random.normal((BATCH, a)) for a, _ in shapes]
    w = [tf.random.normal((a, b), stddev=0.01) for a, b in shapes]
    dy = [tf.random.normal((BATCH, b), stddev=0.01) for _, b in shapes]
    x = [lp.quantize(t, OUTPUTS) for t in x]
    w, dy = ([lp.quantize(t, WEIGHTS) for t in ts] for ts in (w, dy))

    def products(multiply):
        @tf.function
        def run():
            results = []
            for i in range(len(shapes)):
                results.append(multiply(x[i], w[i], OUTPUTS, WEIGHTS, False, False))
                results.append(multiply(x[i], dy[i], OUTPUTS, WEIGHTS, True, False))
                if i:  # the first layer has no BWD
                    results.append(multiply(dy[i], w[i], WEIGHTS, WEIGHTS, False, True))
            return [tf.reduce_max(r) for r in results]

        return run

    def in_float64(a, b, a_format, b_format, *transposes):
        return tf.matmul(tf.cast(a, tf.float64), tf.cast(b, tf.float64), *transposes)

    def in_float32(a, b, a_format, b_format, *transposes):
        return tf.matmul(a, b, *transposes)

    @tf.function
    def update():
        rounded = []
        for t in w:
            step = lp.quantize(t, WEIGHTS, "stochastic", SEED)
            rounded.append(lp.quantize(t + step, WEIGHTS, "stochastic", SEED))
        return [tf.reduce_max(r) for r in rounded]

    return {
        "8 products, float32": products(in_float32),
        "8 products, exact as integers": products(wide_matmul),
        "8 products, exact in float64": products(in_float64),
        "weight update, two roundings": update,
    }


PRODUCTS, ROUNDING, MASKS = "matrix products", "rounding in the layers", "gradients of roundings"
OTHERS, LOSS = "other TensorFlow ops in the layers", "loss"
UPDATE_ROUNDING, UPDATE = "weight update: rounding", "weight update: TensorFlow's ops"
DISPATCH, KERAS = "no op running", "between the steps: Keras, Python"
GROUPS = (PRODUCTS, ROUNDING, MASKS, OTHERS, LOSS, UPDATE_ROUNDING, UPDATE, DISPATCH, KERAS)


def group_of(path, kind):
    """The group of an op, from its name in the graph and its type."""
    if re.search(r"/sgd[_\d]*/", path, re.IGNORECASE):
        return UPDATE_ROUNDING if kind == "Lowprec>Quantize" else UPDATE
    if "MatMul" in kind:  # of TensorFlow, of oneDNN, ours
        return PRODUCTS
    if kind == "Lowprec>Quantize":
        return ROUNDING
    if kind == "Lowprec>QuantizeGrad":
        return MASKS
    return LOSS if "compile_loss" in path else OTHERS


def innermost(events):
    """Segments of the innermost of one thread's (start, end, key), which may nest."""
    segments, stack, now = [], [], 0

    def advance(until):
        nonlocal now
        while stack and now < until:
            end, key = stack[-1]
            if min(end, until) > now:
                segments.append((now, min(end, until), key))
                now = min(end, until)
            if end <= until:
                stack.pop()
        now = max(now, until)

    for start, end, key in sorted(events, key=lambda e: (e[0], -e[1])):
        advance(start)
        stack.append((end, key))
    advance(max((e[1] for e in events), default=0))
    return segments


def attribute(space):
    """Divides the wall time of a fit's steps among ops.

    An instant in which k ops run, each on a thread of its own, counts 1/k for each of them, so that
    the parts add up to the whole. An op runs from its kernel's start to its end, with the threads
    that it uses and waits for.

    Returns:
        {(group, op type): [calls per step, milliseconds per step]}.
    """
    (plane,) = [p for p in space.planes if p.name == "/host:CPU"]
    threads, steps = [], []
    for line in plane.lines:
        events = []
        for event in line.events:
            name = plane.event_metadata[event.metadata_id].name
            start = 1000 * line.timestamp_ns + event.offset_ps
            span = (start, start + event.duration_ps)
            if name == "multi_step_on_iterator":
                steps.append(span)
            # Keras's own calls have no such path; the input's threads run beside the step's.
            match = re.fullmatch("([^: ]+/[^: ]+):([^: ]+)", name)
            if match and not line.name.startswith("tf_data"):
                events.append((*span, (group_of(*match.groups()), match[2])))
        threads.append(events)
    if len(steps) != PROFILED_STEPS:
        raise RuntimeError(f"the profile holds {len(steps)} steps of {PROFILED_STEPS}")
    calls = collections.Counter(key for events in threads for _, _, key in events)
    edges = [(t, d, None) for step in steps for t, d in zip(step, (1, -1))]
    for events in threads:
        for start, end, key in innermost(events):
            edges += [(start, 1, key), (end, -1, key)]
    share, running = collections.Counter(), collections.Counter()
    first, last = min(steps)[0], max(steps)[1]
    before, inside = first, 0
    for now, change, key in sorted(edges, key=lambda e: e[:2]):
        if first < now <= last:
            active = sum(running.values())
            for k, n in running.items() if active else []:
                share[k] += (now - before) * n / active
            if not active:
                share[DISPATCH if inside else KERAS, ""] += now - before
            before = now
        if key is None:
            inside += change
        else:
            running[key] += change
    return {key: [calls[key] / len(steps), ps / 1e9 / len(steps)] for key, ps in share.items()}


def profile(models):
    """The attributed time of each model's steps: of several profiles, that of median length.

    Args:
        models: {name: a function that makes a compiled model}. Each profile takes a new one: after
            some hundred steps TensorFlow knows its cheap ops, and no longer records them.
    """
    images, labels = data(PROFILED_STEPS)
    profiles = {name: [] for name in models}
    for _ in range(PROFILES):
        for name, make in models.items():
            fit = epoch(make(), images, labels)
            fit()
            with tempfile.TemporaryDirectory() as folder:
                tf.profiler.experimental.start(folder)
                fit()
                tf.profiler.experimental.stop()
                (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
                space = xplane_pb2.XSpace.FromString(path.read_bytes())
            profiles[name].append(attribute(space))
    return {
        name: sorted(found, key=lambda parts: sum(ms for _, ms in parts.values()))[PROFILES // 2]
        for name, found in profiles.items()
    }


def profile_table(profiles):
    table = Table(title="where the time of a step goes, by TensorFlow's profiler")
    table.add_column("")
    for name, _ in zip(("stock", "fixed point"), profiles):
        for column in ("calls", "ms"):
            table.add_column(f"{name}: {column}", justify="right")
    for group in (*GROUPS, None):
        row = []
        for parts in profiles.values():
            found = [v for (g, _), v in parts.items() if group in (g, None)]
            calls, ms = (sum(column) for column in zip(*found)) if found else (0, 0)
            row += [f"{calls:.0f}" if calls else "", f"{ms:.2f}" if found else ""]
        table.add_row(group or "all", *row)
    return table


def main():
    arguments = measure.options(__doc__)
    fits = {name: epoch(make(), *data(STEPS)) for name, make in MODELS.items()}
    steps = median_ms(fits, 1)
    steps = {name: ms / STEPS for name, ms in steps.items()}
    pieces = median_ms(parts(), 10)
    profiles = profile(MODELS)
    baseline = steps["stock Keras, float32"]
    table = measure.new_table(
        "MNIST DNN 784-1000-1000-10, batch 100", "", "ms", "ratio to the stock step"
    )
    for name, ms in {**steps, **pieces}.items():
        table.add_row(name, f"{ms:.2f}", f"{ms / baseline:.2f}")
    console = Console()
    console.print(table)
    console.print(profile_table(profiles))
    values = {
        "milliseconds_per_step": steps,
        "milliseconds_of_parts": pieces,
        "profile": {
            name: [
                {"group": group, "op": op, "calls_per_step": calls, "milliseconds_per_step": ms}
                for (group, op), (calls, ms) in sorted(
                    parts.items(), key=lambda p: (GROUPS.index(p[0][0]), -p[1][1])
                )
            ]
            for name, parts in profiles.items()
        },
    }
    measure.write(arguments.results, "training_step", values)


if __name__ == "__main__":
    main()
