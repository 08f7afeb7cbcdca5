"""lp.distribute.BackupAndRestore: training that goes on after a crash, with the same bits."""

import os
import pathlib
import re
import shutil

import numpy as np
import tensorflow as tf

from tf_lowprec.distribute import _tf_private
from tf_lowprec.distribute.all_reduce import AdaCompAllReduce

_KEPT = 2  # a worker may have been killed before it saved what another had saved already
_LISTED = 8


class _Copies(tf.__internal__.tracking.Trackable):
    """A variable's local copies, saved as one, to the bit and without asking other workers."""

    def __init__(self, variable):
        self.copies = _tf_private.copies(variable)

    def _serialize_to_tensors(self):
        return {"value": tf.identity(self.copies[0])}

    def _restore_from_tensors(self, restored_tensors):
        value = restored_tensors["value"]
        for copy in self.copies:
            if copy.shape != value.shape:
                raise ValueError(
                    f"the backup has shape {value.shape} where {copy.name} has {copy.shape}: it is "
                    "of another model; use another backup_dir"
                )
        return tf.group([copy.assign(value) for copy in self.copies])


class BackupAndRestore(tf.keras.callbacks.Callback):
    """Saves the training at the end of each epoch; `fit` goes on from there after a crash.

    Saved are the model's and the optimizer's variables and AdaComp's residues, all to the bit.
    Each worker saves what it has into a folder of its own, so that `backup_dir` may be on its own
    disk or on a shared one. A backup is complete or not there. When training begins, the workers
    agree on the last epoch that all of them have: one may have been killed just before it saved.

    After a restart of all workers the weights at the end are those of a run without interruption,
    if all else is a function of the epoch: the order of the data above all (`epoch` tells a
    generator which one it is), and seeds. Models with state of their own on each worker, such as
    stateful RNNs, are no such case.

    It stands in for ``tf.keras.callbacks.BackupAndRestore``, which knows nothing of residues,
    writes over the only backup it has, and lets workers start at different epochs. Beside it, put
    this one after it: the last one restores last.

    Args:
        backup_dir: a folder.
        delete_checkpoint: whether to remove the backups when training has ended.

    Attributes:
        epoch: the epoch that is being trained, from 0.

    Raises:
        ValueError: a wrong argument; when training begins, a model that is not built, or a backup
            of another one.
    """

    def __init__(self, backup_dir, delete_checkpoint=True):
        super().__init__()
        if not backup_dir:
            raise ValueError(f"backup_dir = {backup_dir!r} must name a folder")
        self.backup_dir, self.delete_checkpoint = pathlib.Path(backup_dir), delete_checkpoint
        self.epoch = 0

    @property
    def folder(self):
        """This worker's."""
        return self.backup_dir / f"worker-{getattr(self._strategy, 'worker_index', 0)}"

    @property
    def _strategy(self):
        return self.model.distribute_strategy

    def on_train_begin(self, logs=None):
        if not self.model.built:
            raise ValueError(
                "the model must be built before fit under BackupAndRestore: give it an Input, or "
                "call it on a batch"
            )
        epoch = self._last_common(self._epochs())
        if epoch is None:
            return
        status = self._checkpoint().read(str(self.folder / f"epoch-{epoch}" / "backup"))
        status.assert_existing_objects_matched()
        self.epoch = epoch
        _tf_private.start_at(self.model, epoch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        self._checkpoint().write(str(unfinished / "backup"))
        finished = self.folder / f"epoch-{done}"
        if finished.exists():  # of a longer run before, whose later epochs are not ours
            shutil.rmtree(finished)
        os.rename(unfinished, finished)
        for old in self._epochs():
            if old <= done - _KEPT or old > done:
                shutil.rmtree(self.folder / f"epoch-{old}")

    def on_train_end(self, logs=None):
        _tf_private.start_at(self.model, None)
        if self.delete_checkpoint:
            self._last_common([])  # no worker deletes while another has yet to finish
            shutil.rmtree(self.folder, ignore_errors=True)

    def _epochs(self):
        """The epochs that this worker has backups of, ascending."""
        found = [re.fullmatch(r"epoch-(\d+)", p.name) for p in self.folder.glob("epoch-*")]
        return sorted(int(match[1]) for match in found if match)

    def _last_common(self, epochs):
        """The last of the epochs that all workers have; None if there is none."""
        row = np.full([1, _LISTED], -1, np.int64)
        row[0, : len(epochs[-_LISTED:])] = epochs[-_LISTED:]
        gather = getattr(self._strategy, "gather_from_workers", None)
        rows = row if gather is None else gather(row)
        common = set.intersection(*(set(r.tolist()) - {-1} for r in rows))
        return max(common, default=None)

    def _checkpoint(self):
        model, optimizer = self.model, self.model.optimizer
        _tf_private.build_optimizer(optimizer, model.trainable_variables)
        variables = [*model.variables, *_tf_private.optimizer_variables(optimizer)]
        parts = {"variables": [_Copies(variable) for variable in variables]}
        all_reduce = _tf_private.cross_device_ops_of(self._strategy)
        if isinstance(all_reduce, AdaCompAllReduce):
            parts["adacomp"] = all_reduce.state
        return tf.train.Checkpoint(**parts)
