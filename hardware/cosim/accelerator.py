"""The accelerator of hardware/rtl as a Python object: integer matrices in, integer matrices out."""

import ctypes
import dataclasses

import numpy as np

from hardware.codes import MODES
from hardware.cosim import verilate
from hardware.cosim.lfsr import Lfsrs


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Parameters of lp_accelerator; see there."""

    ROWS: int = 28
    COLS: int = 28
    WL: int = 16
    ACC_W: int = 48
    K_DEPTH: int = 512
    A_PANELS: int = 1
    OUT_DEPTH: int = 512
    DIM_W: int = 24
    CUT_MAX: int = 32
    MODES: int = 31


class _Job(ctypes.Structure):
    """LowprecJob of hardware/sim/accelerator.cc."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("m", "n", "k")),
        *((name, ctypes.c_int32) for name in ("cut", "mode", "reseed")),
        ("seed", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("a", "a_last")),
        ("a_beats", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("b", "b_last")),
        ("b_beats", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("a_pause", "b_pause", "c_pause")),
        *((name, ctypes.c_int64) for name in ("max_cycles", "c_capacity")),
        *((name, ctypes.c_void_p) for name in ("c", "c_keep", "c_beyond", "c_last")),
        *((name, ctypes.c_int64) for name in ("c_beats", "a_taken", "b_taken")),
        *((name, ctypes.c_int64) for name in ("cycles", "status_cycles")),
        *(
            (name, ctypes.c_int32)
            for name in ("refused", "a_short", "a_long", "b_short", "b_long", "may_wrap")
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Beats of an operand: int32 [beats, lanes], and whether each is the last of its panel."""

    data: np.ndarray
    last: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """What a job gave.

    Attributes:
        c: int32 [m, n]; None where the job was refused.
        beyond: bool [m, n]: the exact sum lay beyond the format's range.
        cycles: from the command until the last beat was taken.
        random_bits: int32 [m, n]: the LFSRs' word that each element was given.
        status: {"refused", "a_short", "a_long", "b_short", "b_long", "may_wrap"} that were set.
        taken: beats taken of A and of B.
    """

    c: object
    beyond: object
    random_bits: object
    cycles: int
    status: frozenset
    taken: tuple


class SimulationError(RuntimeError):
    """The RTL broke a rule of its ports, or came to no end."""


def runs(depth, k):
    """(begin, end) of a tile's runs of k: of `depth`, but for the last two, which are equal."""
    begin = 0
    while begin < k:
        left = k - begin
        length = left if left <= depth else (left + 1) // 2 if left < 2 * depth else depth
        yield begin, begin + length
        begin += length


def blocks(p, m, n, k):
    """The walk of lp_tile_walker: (row, column, k begin, k end, loads A, loads B) of each block.

    `row` and `column` are those of the result's tile's first element.
    """
    resident = k <= p.K_DEPTH
    group = p.ROWS * (p.A_PANELS if resident else 1)
    if m == 0 or n == 0:
        return
    for top in range(0, m, group):
        for column in range(0, n, p.COLS):
            for row in range(top, min(m, top + group), p.ROWS):
                if k == 0:
                    yield row, column, 0, 0, False, False
                for begin, end in runs(p.K_DEPTH, k):
                    loads = (column == 0, row == top) if resident else (True, True)
                    yield row, column, begin, end, *loads


def streams(p, a, b):
    """The beats of A and B, in the order in which lp_accelerator takes them."""
    (m, k), n = a.shape, b.shape[1]
    beats_a, beats_b = [], []
    for row, column, begin, end, load_a, load_b in blocks(p, m, n, k):
        if load_a:
            beats_a.append(_panel(a[row : row + p.ROWS, begin:end].T, p.ROWS))
        if load_b:
            beats_b.append(_panel(b[begin:end, column : column + p.COLS], p.COLS))
    return _stream(beats_a, p.ROWS), _stream(beats_b, p.COLS)


def _panel(beats, lanes):
    return np.pad(beats, ((0, 0), (0, lanes - beats.shape[1])))


def _stream(panels, lanes):
    last = np.zeros(sum(len(x) for x in panels), np.uint8)
    last[np.cumsum([len(x) for x in panels], dtype=int) - 1] = 1
    data = np.concatenate(panels) if panels else np.zeros((0, lanes))
    return Stream(np.ascontiguousarray(data, np.int32), last)


def tiles(p, m, n, k):
    """(row, column) of the result's tiles, in order."""
    return [(row, column) for row, column, begin, *_ in blocks(p, m, n, k) if begin == 0]


class Accelerator:
    """A simulated lp_accelerator. Jobs on one object follow each other without a reset.

    Args:
        parameters: a Parameters.
        seed: of the random pauses, and of what registers without a reset hold at first.
        optimize: g++'s level for the model.
    """

    def __init__(self, parameters, seed=0, optimize="-O2"):
        self.parameters = p = parameters
        defines = {"LOWPREC_ROWS": p.ROWS, "LOWPREC_COLS": p.COLS, "LOWPREC_WL": p.WL}
        path = verilate.library(
            "lp_accelerator", "accelerator.cc", defines, optimize, **dataclasses.asdict(p)
        )
        self._library = ctypes.CDLL(str(path))
        self._library.lowprec_create.restype = ctypes.c_void_p
        self._handle = ctypes.c_void_p(self._library.lowprec_create(ctypes.c_uint32(seed)))
        self.lfsrs = Lfsrs(p.COLS)

    def close(self):
        if self._handle is not None:
            self._library.lowprec_destroy(self._handle)
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def matmul(self, a, b, cut, mode="stochastic", seed=None, pauses=(0, 0, 0), feed=None):
        """round(a . b / 2^cut), saturated to WL bits.

        Args:
            a, b: integer matrices [m, k], [k, n] of WL-bit numbers.
            cut: FLa + FLb - FL: bits of the exact sum below the result's last.
            mode: a key of MODES, or a code.
            seed: restarts the LFSRs; None lets them go on.
            pauses: probabilities with which A, B and the consumer of C pause in a cycle.
            feed: (Stream of A, Stream of B) to send instead of `streams(parameters, a, b)`.

        Returns:
            A Result.

        Raises:
            SimulationError: the RTL broke a rule, or did not end.
        """
        p = self.parameters
        a, b = np.asarray(a), np.asarray(b)
        (m, k), n = a.shape, b.shape[1]
        stream_a, stream_b = feed or streams(p, a, b)
        grid = tiles(p, m, n, k)
        rows = sum(min(p.ROWS, m - row) for row, _ in grid)
        c, keep, beyond = np.zeros((rows, p.COLS), np.int32), *np.zeros((2, rows, p.COLS), np.uint8)
        last = np.zeros(rows, np.uint8)
        beats = len(stream_a.data) + len(stream_b.data) + rows
        compute = len(list(blocks(p, m, n, k))) * p.K_DEPTH
        slowest = 1 / (1 - max(*pauses, 0.5))
        job = _Job(
            m, n, k, cut, MODES.get(mode, mode), seed is not None, seed or 0,
            stream_a.data.ctypes.data, stream_a.last.ctypes.data, len(stream_a.data),
            stream_b.data.ctypes.data, stream_b.last.ctypes.data, len(stream_b.data),
            *pauses, int(slowest * 4 * (beats + compute)) + 1000, rows,
            c.ctypes.data, keep.ctypes.data, beyond.ctypes.data, last.ctypes.data,
        )  # fmt: skip
        code = self._library.lowprec_run(self._handle, ctypes.byref(job))
        if code != 0:
            what = {1: "no end", 2: "an offered beat changed", 3: "more beats than rows"}[code]
            raise SimulationError(f"{m} x {k} by {k} x {n}: {what} after {job.cycles} cycles")
        names = ("refused", "a_short", "a_long", "b_short", "b_long", "may_wrap")
        status = frozenset(name for name in names if getattr(job, name))
        if job.refused:
            return Result(None, None, None, job.cycles, status, (job.a_taken, job.b_taken))
        if seed is not None:
            self.lfsrs.reseed(seed)
        if job.c_beats != rows:
            raise SimulationError(f"{job.c_beats} rows came, not {rows}")
        matrix, random = np.zeros((2, m, n), np.int32)
        mask, at = np.zeros((m, n), bool), 0
        # A tile takes a word of each column for all of the array's rows, dropped ones included.
        words = self.lfsrs.words(len(grid) * p.ROWS).reshape(len(grid), p.ROWS, p.COLS)
        for (row, column), word in zip(grid, words):
            height, width = min(p.ROWS, m - row), min(p.COLS, n - column)
            here = slice(at, at + height)
            at += height
            there = np.s_[row : row + height, column : column + width]
            matrix[there], mask[there] = c[here, :width], beyond[here, :width]
            random[there] = word[:height, :width]
            framed = keep[here, :width].all() and not keep[here, width:].any()
            if not framed or last[here].tolist() != [0] * (height - 1) + [1]:
                raise SimulationError(f"tile at {row}, {column}: tkeep or tlast is wrong")
        return Result(matrix, mask, random, job.cycles, status, (job.a_taken, job.b_taken))
