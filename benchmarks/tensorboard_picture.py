"""docs/watch/tensorboard.png: what lp.Watch and CompressionLogger write, as TensorBoard shows it.

    python benchmarks/tensorboard_picture.py [--tensorboard PROGRAM] [--browser chromium]

Trains a small network in FP8 under MirroredStrategy with AdaComp, starts TensorBoard on the logs
and has a headless Chromium take the picture. TensorBoard is not among the requirements: `pip
install tensorboard "setuptools<81"` in an environment of its own, and name its program.
"""

import argparse
import base64
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np
import tensorflow as tf

import tf_lowprec as lp

PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "watch" / "tensorboard.png"
# What of the page is seen: four of the scalars.
FILTER = "hidden/(BWD|GRAD)/swamped|compression/(compression_ratio|gradient_bytes)"


def train(folder):
    """200 steps, observed every 10th, on made data that a network can learn."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1600, 100)).astype(np.float32)
    y = np.argmax(x @ rng.normal(size=(100, 10)), axis=1)
    policy = lp.Policy.fp8(accumulator_mantissa_bits=5, chunk=None)
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=lp.distribute.AdaCompAllReduce()
    )
    with strategy.scope():
        model = tf.keras.Sequential(
            [
                tf.keras.Input((100,)),
                lp.layers.Dense(64, activation="relu", precision=policy, name="hidden"),
                lp.layers.Dense(10, precision=policy, name="out"),
            ],
            name="mlp",
        )
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf.keras.optimizers.SGD(0.05, momentum=0.9), loss)
    callbacks = [
        lp.Watch((x[:32], y[:32]), log_dir=folder, every=10),
        lp.distribute.CompressionLogger(folder),
    ]
    model.fit(x, y, batch_size=64, epochs=8, verbose=0, callbacks=callbacks)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class Browser:
    """A headless Chromium that is told what to do through a pipe (its DevTools protocol).

    --screenshot alone takes its picture at a time of its own, before the charts are drawn.
    """

    def __init__(self, program):
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        # Chromium reads from descriptor 3 and writes to 4.
        self._process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" 3<&{read} 4>&{write}', "sh", program, *options]
            + ["--remote-debugging-pipe", "--window-size=1180,1110"],
            pass_fds=(read, write),
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._number, self._rest = 0, b""

    def call(self, method, session=None, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._read, 2**16)
                if not part:
                    raise RuntimeError("the browser has ended")
                self._rest += part
            answer, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(answer)
            if answer.get("id") == self._number:
                return answer["result"]

    def close(self):
        self.call("Browser.close")
        self._process.wait()


def screenshot(program, address):
    browser = Browser(program)
    target = browser.call("Target.createTarget", url=address)["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    time.sleep(20)
    # The settings take a quarter of the page.
    button = "[...document.querySelectorAll('button')].find(b => /Settings/.test(b.innerText))"
    click = f"{button}.click()"
    browser.call("Runtime.evaluate", session, expression=click)
    time.sleep(5)
    data = browser.call("Page.captureScreenshot", session, format="png")["data"]
    browser.close()
    return base64.b64decode(data)


def picture(folder, tensorboard, browser, path):
    port = free_port()
    address = f"http://localhost:{port}"
    server = subprocess.Popen(
        # In the folder and with a relative path: the page shows no place of this machine.
        [tensorboard, "--logdir", ".", "--host", "localhost", "--port", str(port)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/data/runs").read()
                break
            except urllib.error.URLError:
                time.sleep(0.5)
        query = "tagFilter=" + urllib.request.quote(FILTER, safe="")
        page = f"{address}/?darkMode=false&forceSVG=true&smoothing=0&{query}#timeseries"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(screenshot(browser, page))
    finally:
        server.terminate()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensorboard", default="tensorboard", help="its program")
    parser.add_argument("--browser", default="chromium", help="Chromium's program")
    parser.add_argument("--picture", type=pathlib.Path, default=PICTURE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train(f"{folder}/fp8")  # the run's name on the page
        picture(folder, options.tensorboard, options.browser, options.picture.resolve())
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
