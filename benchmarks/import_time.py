"""How long `import tf_lowprec` takes over TensorFlow and Keras, in new processes, in turn.

usage: python benchmarks/import_time.py [--rounds 5]
"""

import argparse
import statistics
import subprocess
import sys
import time

BASE = "import tensorflow as tf; tf.keras.layers.Dense"


def seconds(code):
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    base, ours = [], []
    for _ in range(rounds + 1):  # the first fills the file cache
        base.append(seconds(BASE))
        ours.append(seconds(f"{BASE}; import tf_lowprec"))
    tensorflow, both = statistics.median(base[1:]), statistics.median(ours[1:])
    print(f"TensorFlow and Keras {tensorflow:.2f} s, with tf_lowprec {both:.2f} s")
    print(f"tf_lowprec adds {both - tensorflow:.2f} s")


if __name__ == "__main__":
    main()
