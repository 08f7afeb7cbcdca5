"""A small speech task: the ten digits, spoken by espeak-ng in many voices; its features.

Each utterance is 40 log-mel energies in 32 windows spread evenly over it, with noise added to the
waveform. Voices of the test set do not occur in the training set.
"""

import concurrent.futures
import io
import itertools
import os
import shutil
import subprocess
import wave

import numpy as np

from tf_lowprec.datasets import cache_folder

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
TEST_VARIANTS = ("m7", "f4")
PITCHES, SPEEDS = (25, 40, 55, 70), (120, 150, 180, 220)
MELS, WINDOWS, LENGTH = 40, 32, 512


def _mel_filters(rate):
    def mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    edges = 700 * (10 ** (np.linspace(mel(80), mel(rate / 2), MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(LENGTH, 1 / rate)
    low, middle, high = (edges[i : i + MELS, None] for i in range(3))
    up, down = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.maximum(0, np.minimum(up, down))


def features(samples, rate, rng):
    """[WINDOWS, MELS] of one utterance at a signal-to-noise ratio of 5 to 25 dB."""
    samples = np.trim_zeros(samples)
    noise = 10 ** (-rng.uniform(5, 25) / 20) * np.std(samples)
    samples = samples + noise * rng.normal(size=samples.size)
    samples = np.pad(samples, (0, max(0, LENGTH - samples.size)))
    starts = np.linspace(0, samples.size - LENGTH, WINDOWS).astype(int)
    frames = samples[starts[:, None] + np.arange(LENGTH)] * np.hanning(LENGTH)
    energies = np.abs(np.fft.rfft(frames)) ** 2 @ _mel_filters(rate).T
    return np.log(energies + 1e-3).astype(np.float32)


def _speak(job):
    digit, accent, variant, pitch, speed = job
    command = ["espeak-ng", "--stdout", "-v", f"{accent}+{variant}", "-p", str(pitch)]
    done = subprocess.run([*command, "-s", str(speed), DIGITS[digit]], capture_output=True)
    if done.returncode != 0:
        raise OSError(f"espeak-ng failed: {done.stderr.decode()[-200:]}")
    # Written to a pipe, the header does not know the length: what follows its 44 bytes is sound.
    with wave.open(io.BytesIO(done.stdout)) as header:
        rate = header.getframerate()
    return np.frombuffer(done.stdout[44:], np.int16).astype(np.float64) / 32768, rate


def spoken_digits():
    """(x_train, y_train), (x_test, y_test): float32 [N, 32, 40] of mean 0, variance 1; int32."""
    path = cache_folder() / "tf_lowprec-spoken_digits.npz"
    if not path.exists():
        if shutil.which("espeak-ng") is None:
            raise RuntimeError("spoken_digits needs espeak-ng: apt-get install espeak-ng")
        jobs = list(itertools.product(range(10), ACCENTS, VARIANTS, PITCHES, SPEEDS))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            spoken = list(pool.map(_speak, jobs))
        rng = np.random.default_rng(0)
        x = np.stack([features(*utterance, rng) for utterance in spoken])
        y = np.array([job[0] for job in jobs], np.int32)
        test = np.array([job[2] in TEST_VARIANTS for job in jobs])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(partial, x=x, y=y, test=test)
        partial.replace(path)
    with np.load(path) as arrays:
        x, y, test = (arrays[key] for key in ("x", "y", "test"))
    x = (x - x[~test].mean(axis=(0, 1))) / x[~test].std(axis=(0, 1))
    return (x[~test], y[~test]), (x[test], y[test])
