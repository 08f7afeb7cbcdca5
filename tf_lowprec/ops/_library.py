"""Finds and loads the op library: the only place that knows the .so."""

import contextlib
import contextvars
import pathlib

import tensorflow as tf

try:
    from tf_lowprec import _build_info
except ImportError:
    _build_info = None  # type: ignore[assignment]  # not built: _load says what to do

_FOLDER = pathlib.Path(__file__).resolve().parent.parent
_LIBRARY = _FOLDER / "_ops.so"


def check_version(built, running):
    """Raises ImportError unless the library was built for the TensorFlow that runs.

    TensorFlow's C++ ABI changes between releases: a library for another one does not even open.
    """
    if built != running:
        raise ImportError(
            f"tf_lowprec's op library was built for TensorFlow {built}, but TensorFlow {running} "
            f"is running. Rebuild it in this environment: `make build` in a source tree, or "
            f"`pip install --force-reinstall --no-deps .`; or install tensorflow=={built}."
        )


def _load():
    if _build_info is None or not _LIBRARY.exists():
        raise ImportError(
            f"tf_lowprec's op library is not built ({_LIBRARY.name} is missing in the package's "
            "folder). In a source tree run `make build`; otherwise `pip install .` from one."
        )
    check_version(_build_info.TENSORFLOW_VERSION, tf.__version__)
    try:
        return tf.load_op_library(str(_LIBRARY))
    except tf.errors.NotFoundError as error:
        raise ImportError(
            f"TensorFlow {tf.__version__} cannot open tf_lowprec's op library, built for "
            f"TensorFlow {_build_info.TENSORFLOW_VERSION}. Rebuild it in this environment: "
            f"`make build`, or `pip install --force-reinstall --no-deps .`. The loader says: "
            f"{error.message}"
        ) from None


class _Ops:
    """The library's ops; within `stand_ins`, other functions of the same names and arguments."""

    def __init__(self, library):
        self._library = library
        self._others = contextvars.ContextVar("stand_ins", default=None)

    def __getattr__(self, name):
        others = self._others.get()
        return getattr(self._library if others is None else others, name)

    @contextlib.contextmanager
    def stand_ins(self, others):
        """Within it, what is called or traced in this thread uses the functions of `others`."""
        token = self._others.set(others)
        try:
            yield
        finally:
            self._others.reset(token)


ops = _Ops(_load())
HAS_GPU_KERNELS = _build_info.CUDA  # of every op; whether the build found nvcc
