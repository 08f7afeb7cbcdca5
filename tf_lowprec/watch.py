"""lp.Watch: a Keras callback that looks at saturation, underflow, swamping and retention."""

import numbers
import time

import tensorflow as tf

from tf_lowprec.analysis.observe import Observer
from tf_lowprec.analysis.vrr import check_count
from tf_lowprec.summary import write_scalar


class Watch(tf.keras.callbacks.Callback):
    """Observes every low-precision layer while a model trains (see analysis.observe).

    Each observation runs the model once forward and back on the examples in `data`, apart from the
    training steps, which stay as they are. The first follows the second batch (the first compiles),
    the next ones whenever the training since has lasted so long that observations take `budget` of
    the time. Without the callback nothing is computed.

    With `log_dir` TensorBoard gets, for each layer and pass, ``precision/<layer>/<pass>/`` and
    ``saturated``, ``underflow``, ``swamped``, ``vrr`` and so on; the step is the batch. For
    AdaComp's ratios add distribute.CompressionLogger.

    Args:
        data: ``(x, y)``, a batch for which the compiled loss is right; some 32 examples do.
        log_dir: a folder for TensorBoard; None writes none.
        budget: share of the training time that observations may take, in (0, 1].
        every: observe every so many batches instead, whatever it costs.
        samples: sums drawn for each layer and pass.

    Attributes:
        history: list of (batch, analysis Observations).

    Raises:
        ValueError: an argument out of range; when training begins, data that does not fit.
    """

    def __init__(self, data, log_dir=None, budget=0.05, every=None, samples=256):
        super().__init__()
        if not isinstance(budget, numbers.Real) or not 0 < budget <= 1:
            raise ValueError(f"budget = {budget!r} must be in (0, 1]: a share of the training time")
        self.every = None if every is None else check_count(every, "every")
        self.data, self.log_dir, self.budget = data, log_dir, budget
        self.samples = check_count(samples, "samples")
        self.history = []
        self._observer, self._writer = None, None
        self._batches, self._next = 0, None

    @property
    def latest(self):
        """The last Observations, or None."""
        return self.history[-1][1] if self.history else None

    def on_train_begin(self, logs=None):
        self._observer = Observer(self.model, self.data, samples=self.samples)
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        # The first step compiles: it is no measure of a step.
        self._next = None

    def on_train_batch_end(self, batch, logs=None):
        self._batches += 1
        if self.every is not None:
            due = self._batches % self.every == 0
        else:
            due = self._next is not None and time.perf_counter() >= self._next
        if due:
            self._observe()
        elif self._next is None:
            self._next = time.perf_counter()

    def on_train_end(self, logs=None):
        if not self.history:
            self._observe()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._observer = None

    def _observe(self):
        start = time.perf_counter()
        observations = self._observer.observe(seed=self._batches)
        self.history.append((self._batches, observations))
        if self._writer is not None:
            with self._writer.as_default():
                for row in observations:
                    prefix = f"precision/{row.layer}/{row.which}/"
                    for name, value in row.scalars().items():
                        write_scalar(prefix + name, value, self._batches)
            self._writer.flush()
        end = time.perf_counter()
        self._next = end + (end - start) * (1 / self.budget - 1)
