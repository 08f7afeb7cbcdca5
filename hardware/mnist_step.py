"""A training step of MNIST DNN, every product through the simulated 28 x 28 array, against the ops.

    PYTHONPATH=. .venv/bin/python hardware/mnist_step.py

784-1000-1000-10, a batch of 100 images of MNIST, weights <2,14>, outputs <6,10>: the eight
products of FWD, BWD and GRAD, compared bit for bit with lp.quantize of the exact sums, given the
LFSRs' words; and the weights after the step with those of a step by the ops alone, where no random
bits are drawn. Writes hardware/mnist_step.json.
"""

import argparse
import json
import pathlib

import numpy as np

import tf_lowprec as lp
from hardware.cosim.accelerator import Accelerator, Parameters
from hardware.cosim.training import compare


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    (images, labels), _ = lp.datasets.mnist()
    images, labels = images[: options.batch] / np.float32(255), labels[: options.batch]
    report, good = {"batch": options.batch, "rows": []}, True
    with Accelerator(Parameters()) as accelerator:
        for rounding in ("nearest_even", "nearest_up", "stochastic"):
            products, same = compare(accelerator, rounding, images, labels)
            good &= all(p.equal for p in products) and (same or rounding == "stochastic")
            for p in products:
                m, k, n = p.shape
                used = m * k * n / (28 * 28 * p.cycles)
                row = {
                    "rounding": rounding, "m": m, "k": k, "n": n, "cycles": p.cycles,
                    "utilization": round(used, 4), "bit_equal": p.equal,
                }  # fmt: skip
                report["rows"].append(row)
                print(*row.values())
            if rounding != "stochastic":
                report[f"weights_equal_{rounding}"] = same
                print(f"{rounding}: weights after the step are {'equal' if same else 'DIFFERENT'}")
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    if not good:
        raise SystemExit("the array and the ops differ")


if __name__ == "__main__":
    main()
