"""Planned widths of ResNet-32 (batch 128), ResNet-18 and AlexNet (batch 256) beside the paper's.

    python benchmarks/vrr_plans.py [--data]

E5M2 operands, one sum and chunks of 64, v(n) < 50. Published widths are from memory of Sakr et al.
(2019); only the cells below are compared. --data measures non-zero ratios of
ResNet-32 on a batch of CIFAR-10 at its initial weights, as the paper measures them. Writes
plan_<network>.json and .png, and prints the tables in Markdown.
"""

import argparse
import pathlib

import numpy as np
import tensorflow as tf

import tf_lowprec as lp

NETWORKS = {"resnet32": 128, "resnet18": 256, "alexnet": 256}
# (normal, chunked) of GRAD, by group of layers; of FWD and BWD, the range over ResNet-32.
GRADIENT = {
    "resnet32": {"stage1": (11, 8), "stage2": (10, 7), "stage3": (9, 6)},
    "resnet18": {
        "conv1": (15, 10),
        "stage1": (15, 9),
        "stage2": (12, 8),
        "stage3": (10, 6),
        "stage4": (9, 5),
    },
}
FORWARD_BACKWARD = {"resnet32": ((6, 5), (7, 5))}


def groups(plan):
    """{first part of the layers' names: their sums}, without the last layer."""
    found = {}
    for s in plan.sums:
        if not s.is_last:
            found.setdefault(s.layer.split("_")[0], []).append(s)
    return found


def cell(sums):
    """Lengths and widths of one pass of a group, as a range where layers differ."""
    if not sums:
        return "", ""
    lengths = sorted({s.n for s in sums})
    widths = sorted({(s.normal, s.chunked) for s in sums})

    def span(values):
        return values[0] if len(values) == 1 else f"{values[0]} – {values[-1]}"

    return span([f"{n:,}" for n in lengths]), span([f"({a},{b})" for a, b in widths])


def markdown(name, plan):
    published = GRADIENT.get(name, {})
    print("\n| layers | FWD n | bits | BWD n | bits | GRAD n | bits | NZR | published GRAD |")
    print("|---|---|---|---|---|---|---|---|---|")
    for group, sums in groups(plan).items():
        cells = [
            part
            for which in ("FWD", "BWD", "GRAD")
            for part in cell([s for s in sums if s.which == which])
        ]
        nzr = np.mean([s.nzr for s in sums if s.which == "GRAD"])
        pair = published.get(group)
        last = "" if pair is None else f"({pair[0]},{pair[1]})"
        print(f"| {group} | {' | '.join(cells)} | {nzr:.2f} | {last} |")


def compare(name, plan, dense):
    """Absolute differences, in bits, from the published widths.

    As in the paper, non-zero ratios count in GRAD only: FWD and BWD are those of `dense`.
    """
    differences = []
    found = groups(plan)
    for group, pair in GRADIENT.get(name, {}).items():
        sums = [s for s in found[group] if s.which == "GRAD"]
        # The group's commonest width.
        values = [(s.normal, s.chunked) for s in sums]
        mine = max(set(values), key=values.count)
        differences += [abs(a - b) for a, b in zip(mine, pair)]
    if name in FORWARD_BACKWARD:
        sums = [s for s in dense.sums if s.which != "GRAD" and not s.is_last]
        # The stem's 27 terms are not a cell of the table.
        values = sorted({(s.normal, s.chunked) for s in sums if s.layer != "conv1"})
        for mine, pair in zip((values[0], values[-1]), FORWARD_BACKWARD[name]):
            differences += [abs(a - b) for a, b in zip(mine, pair)]
    return differences


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", action="store_true", help="measure non-zero ratios of ResNet-32")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    for name, batch in NETWORKS.items():
        model = getattr(lp.models, name)(seed=1)
        arguments = {}
        if options.data and name == "resnet32":
            (x, y), _ = lp.datasets.cifar10()
            x = (x[:batch] / np.float32(255) - 0.473) / 0.251
            loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            arguments = {"data": (x, y[:batch].ravel()), "loss": loss}
        plan = lp.analysis.plan(model, batch, **arguments)
        plan.to_json(options.results / f"plan_{name}.json")
        plan.plot(options.results / f"plan_{name}.png")
        print(f"\n{name}, batch {batch}", end="")
        markdown(name, plan)
        differences = compare(name, plan, lp.analysis.plan(model, batch))
        if differences:
            equal, near = differences.count(0), differences.count(1)
            print(
                f"\nOf {len(differences)} published widths {equal} equal, {near} within 1 bit, "
                f"{len(differences) - equal - near} further off"
            )


if __name__ == "__main__":
    main()
