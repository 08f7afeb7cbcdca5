"""Where the time of a training step goes, by TensorFlow's profiler."""

import collections
import pathlib
import re
import tempfile

import tensorflow as tf
from rich.table import Table
from tensorflow.tsl.profiler.protobuf import xplane_pb2

PRODUCTS, ROUNDING, MASKS = (
    "products and convolutions",
    "rounding in the layers",
    "gradients of roundings",
)
OTHERS, LOSS = "other TensorFlow ops in the layers", "loss"
UPDATE_ROUNDING, UPDATE = "weight update: rounding", "weight update: TensorFlow's ops"
DISPATCH, KERAS = "no op running", "between the steps: Keras, Python"
GROUPS = (PRODUCTS, ROUNDING, MASKS, OTHERS, LOSS, UPDATE_ROUNDING, UPDATE, DISPATCH, KERAS)


def group_of(path, kind):
    """The group of an op, from its name in the graph and its type."""
    if re.search(r"/sgd[_\d]*/", path, re.IGNORECASE):
        return UPDATE_ROUNDING if kind == "Lowprec>Quantize" else UPDATE
    if "MatMul" in kind or "Conv2D" in kind:  # of TensorFlow, of oneDNN, ours
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


def attribute(space, steps_in_it):
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
    if len(steps) != steps_in_it:
        raise RuntimeError(f"the profile holds {len(steps)} steps of {steps_in_it}")
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


def profile(fits, steps, repetitions):
    """The attributed time of each model's steps: of several profiles, that of median length.

    Args:
        fits: {name: a function that makes a function that does `steps` steps of a new model}. Each
            profile takes a new one: after some hundred steps TensorFlow knows its cheap ops, and no
            longer records them.
    """
    profiles = {name: [] for name in fits}
    for _ in range(repetitions):
        for name, make in fits.items():
            fit = make()
            fit()
            with tempfile.TemporaryDirectory() as folder:
                tf.profiler.experimental.start(folder)
                fit()
                tf.profiler.experimental.stop()
                (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
                space = xplane_pb2.XSpace.FromString(path.read_bytes())
            profiles[name].append(attribute(space, steps))
    return {
        name: sorted(found, key=lambda parts: sum(ms for _, ms in parts.values()))[repetitions // 2]
        for name, found in profiles.items()
    }


def table(profiles):
    table = Table(title="where the time of a step goes, by TensorFlow's profiler")
    table.add_column("")
    for name, _ in zip(("stock", "low precision"), profiles):
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


def rows(parts):
    """One model's profile as records, the longest of each group first."""
    order = sorted(parts.items(), key=lambda p: (GROUPS.index(p[0][0]), -p[1][1]))
    return [
        {"group": group, "op": op, "calls_per_step": calls, "milliseconds_per_step": ms}
        for (group, op), (calls, ms) in order
    ]
