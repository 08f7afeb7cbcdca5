"""The `tf-lowprec` command: accumulator widths of a sum or a model; what a model computes in.

Exit codes: 0 done, 1 something does not work out (one line on stderr says what), 2 wrong usage.
"""

import argparse
import importlib
import pathlib
import sys
import zipfile

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tf_lowprec import analysis, datasets
from tf_lowprec.analysis.saved_model import plan_saved_model
from tf_lowprec.analysis.tables import needed_width
from tf_lowprec.analysis.trace import first_line
from tf_lowprec.formats import FloatFormat, Rounding
from tf_lowprec.precision import Accumulator

_DATASETS = ("mnist", "fashion_mnist", "cifar10")


def main(arguments=None):
    """Runs the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        message = " ".join(str(error).split())
        print(f"tf-lowprec {options.command}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"tf-lowprec {options.command}: interrupted", file=sys.stderr)
        return 1
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="tf-lowprec",
        description="How many accumulator bits does a network need, and how many has it?",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="plan | vrr | inspect")
    _add_plan(commands)
    _add_vrr(commands)
    _add_inspect(commands)
    return parser


def _add_common(parser):
    parser.add_argument(
        "--chunk", type=_chunk, default=64, metavar="N",
        help="terms in a chunk; 'none' for one sum, 'best' for sqrt(n) (default: 64)",
    )  # fmt: skip
    parser.add_argument(
        "--rounding", choices=[r.value for r in Rounding], default="nearest_even",
        help="of partial sums (default: nearest_even)",
    )  # fmt: skip
    parser.add_argument(
        "--cutoff", type=float, default=analysis.CUTOFF,
        help="v(n) below which the VRR calls an accumulator suitable (default: 50)",
    )  # fmt: skip
    parser.add_argument(
        "--noise", type=float, metavar="E", default=1e-2,
        help="tolerated noise-to-signal ratio of our own rule (default: 0.01)",
    )  # fmt: skip


def _add_plan(commands):
    parser = commands.add_parser(
        "plan",
        help="accumulator widths of a model",
        description="Plans the mantissa bits of every accumulator of a model: per layer, in the "
        "forward pass (FWD), for the errors (BWD) and for the weights' gradients (GRAD).",
        epilog="example: tf-lowprec plan tf_lowprec.models:resnet18 --batch-size 256 --plot p.png",
    )
    parser.add_argument(
        "model", help="a .keras or .h5 file, a SavedModel's folder, or module:function"
    )
    parser.add_argument("--batch-size", type=int, metavar="B", help="examples in a batch")
    parser.add_argument(
        "--operand", type=_float_format, default=FloatFormat(5, 2), metavar="E,M",
        help="exponent and mantissa bits of the operands (default: 5,2)",
    )  # fmt: skip
    parser.add_argument(
        "--rule", choices=("vrr", "noise"), default="vrr",
        help="the paper's variance retention ratio, or our noise rule (default: vrr)",
    )  # fmt: skip
    _add_common(parser)
    parser.add_argument(
        "--perturb", type=int, default=0, metavar="PP",
        help="bits to add to what the rule asks for; the paper tries -1, -2 ...",
    )  # fmt: skip
    parser.add_argument(
        "--input-shape", type=_shape, metavar="D,D,...", help="one example's, where it is open"
    )
    parser.add_argument(
        "--data", metavar="NAME",
        help=f"measure on a batch of {', '.join(_DATASETS)}, or of an .npz file with x and y",
    )  # fmt: skip
    parser.add_argument("--plot", type=pathlib.Path, metavar="PNG", help="write a picture")
    parser.add_argument("--json", type=pathlib.Path, metavar="JSON", help="write the plan")
    parser.add_argument(
        "--hardware", action="store_true",
        help="area and energy of the multiply-accumulate units, against float32 accumulation",
    )  # fmt: skip
    parser.set_defaults(run=_plan)


def _add_vrr(commands):
    parser = commands.add_parser(
        "vrr",
        help="widths and ratios of one sum",
        description="For a sum of N terms: the widths that each rule asks for, and for a range of "
        "widths what the formulas say of the sum.",
        epilog="example: tf-lowprec vrr --n 4608 --product-bits 5 --measure",
    )
    parser.add_argument("--n", type=_terms, required=True, help="number of terms, such as 4608")
    parser.add_argument(
        "--product-bits", type=int, default=5, metavar="M",
        help="mantissa bits of a product: 2 m + 1 for operands of m (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--nzr", type=float, default=1.0, help="ratio of terms that are not zero (default: 1)"
    )
    _add_common(parser)
    parser.add_argument("--measure", action="store_true", help="run the real accumulators too")
    parser.add_argument(
        "--samples", type=int, default=1024, help="sums in a measured ensemble (default: 1024)"
    )
    parser.set_defaults(run=_vrr)


def _add_inspect(commands):
    parser = commands.add_parser(
        "inspect",
        help="formats, bits and sizes of a model's layers",
        description="Prints, for each layer with weights, what its products are computed in, in "
        "each pass, and how its weights are stored.",
        epilog="example: tf-lowprec inspect model.keras",
    )
    parser.add_argument("model", help="a .keras or .h5 file, or module:function")
    parser.set_defaults(run=_inspect)


def _inspect(options):
    from tf_lowprec.analysis.formats_table import formats_table

    if pathlib.Path(options.model).is_dir():
        raise ValueError(
            f"model {options.model!r} is a folder: inspect needs layers, a .keras file"
        )
    _console().print(formats_table(_load(options.model)))


def _plan(options):
    for option, path in (("--plot", options.plot), ("--json", options.json)):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{option} {path}: there is no folder {path.parent}")
    console = _console()
    rules = {
        "operand": options.operand,
        "chunk": options.chunk,
        "rule": options.rule,
        "cutoff": options.cutoff,
        "noise_to_signal": options.noise,
        "rounding": options.rounding,
    }
    with Console(stderr=True).status(f"planning {options.model}"):
        if pathlib.Path(options.model).is_dir():
            if options.data or options.input_shape:
                raise ValueError(
                    "--data and --input-shape need the layers of a .keras file or a function; a "
                    "SavedModel is a graph"
                )
            plan = plan_saved_model(options.model, options.batch_size, **rules)
        else:
            model = _load(options.model)
            data, loss = None, None
            if options.data:
                if options.batch_size is None:
                    raise ValueError("--data needs --batch-size, such as --batch-size 128")
                data = _data(options.data, model, options.batch_size)
                loss = getattr(model, "loss", None) or _classification_loss(model, data)
            plan = analysis.plan(
                model,
                options.batch_size,
                data=data,
                loss=loss,
                input_shape=options.input_shape,
                **rules,
            )
    plan = plan.perturb(options.perturb)
    table = plan.table()
    if needed_width(table) > console.width:
        table = plan.table(by_pass=True)
    console.print(table)
    if options.hardware:
        console.print(plan.hardware().table())
    if options.plot:
        plan.plot(options.plot)
        console.print(f"Wrote {options.plot}")
    if options.json:
        plan.to_json(options.json)
        console.print(f"Wrote {options.json}")


def _vrr(options):
    n, m_p, rounding = options.n, options.product_bits, options.rounding
    chunk = analysis.best_chunk(n) if options.chunk == "best" else options.chunk
    common = {"chunk": chunk, "nzr": options.nzr, "cutoff": options.cutoff, "rounding": rounding}
    common["noise_to_signal"] = options.noise
    formula = analysis.minimum_mantissa(m_p, n, **common)
    noise = analysis.minimum_mantissa(m_p, n, method="noise", **common)
    kind = "one sum" if chunk is None else f"chunks of {chunk}"
    table = Table(
        title=f"{n:,} terms of {m_p} mantissa bits, NZR {options.nzr:g}, {kind}, {rounding}",
        caption=f"asked for: {formula} bits by v(n) < {options.cutoff:g}; {noise} bits by noise "
        f"below {options.noise:g}",
        caption_justify="left",
    )
    for column in ("m", "VRR", "v(n)", "noise"):
        table.add_column(column, justify="right")
    if options.measure:
        table.add_column("measured VRR", justify="right")
        table.add_column("measured noise", justify="right")
    low, high = sorted((formula, noise))
    for m in range(max(1, low - 2), min(23, high + 2) + 1):
        if chunk is None:
            ratio = analysis.vrr(m, m_p, n, options.nzr)
        else:
            ratio = analysis.vrr_chunked(m, m_p, n, chunk, options.nzr)
        row = [
            str(m),
            f"{ratio:.6f}",
            f"{analysis.variance_lost(m, m_p, n, chunk, options.nzr):.3g}",
            f"{analysis.rounding_noise(m, n, chunk, options.nzr, rounding=rounding, m_p=m_p):.2e}",
        ]
        if options.measure:
            with Console(stderr=True).status(f"measuring m = {m}"):
                accumulator = Accumulator(FloatFormat(8, m), chunk, rounding)
                result = analysis.measured_vrr(
                    accumulator, m_p, n, options.samples, nzr=options.nzr
                )
            half = (result.vrr_interval[1] - result.vrr_interval[0]) / 2
            row += [f"{result.vrr:.4f} ± {half:.4f}", f"{result.noise:.2e}"]
        table.add_row(*row)
    _console().print(table)


def _console():
    """Standard output; in a file or pipe, lines are as long as tables need, up to 240."""
    console = Console()
    return console if console.is_terminal else Console(width=240)


def _load(name):
    """The model that a command line names."""
    path = pathlib.Path(name)
    if ":" in name and not path.exists():
        module, _, function = name.partition(":")
        if "" not in sys.path:  # as `python -m` has it
            sys.path.insert(0, "")
        try:
            build = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"model {name!r}: {error}") from None
        except Exception as error:  # whatever the module does
            raise ValueError(f"model {name!r}: {type(error).__name__}: {error}") from error
        try:
            model = build()
        except TypeError as error:
            raise ValueError(
                f"model {name!r} must be a function of no arguments: {error}"
            ) from None
        except Exception as error:
            raise ValueError(f"model {name!r}: {type(error).__name__}: {error}") from error
    elif path.suffix in (".keras", ".h5"):
        if not path.exists():
            raise ValueError(f"model {name!r}: no such file")
        if path.suffix == ".keras" and not zipfile.is_zipfile(path):
            raise ValueError(f"model {name!r} is damaged, or was not saved as a .keras file")
        try:
            model = tf.keras.models.load_model(path)
        except Exception as error:  # Keras has many for files that it cannot read
            raise ValueError(
                f"model {name!r} cannot be loaded; a file with layers of your own needs them, as "
                f"module:function has: {type(error).__name__}: {first_line(error)}"
            ) from error
    else:
        raise ValueError(
            f"model {name!r} must be a .keras or .h5 file, a SavedModel's folder, or "
            "module:function, such as tf_lowprec.models:resnet18"
        )
    if not isinstance(model, tf.keras.Model):
        raise ValueError(f"model {name!r} gives {type(model).__name__}, not a tf.keras.Model")
    return model


def _data(name, model, batch_size):
    """(x, y) of at least a batch, images in [0, 1] and of the size that the model takes."""
    if name in _DATASETS:
        (x, y), _ = getattr(datasets, name)()
        x = x.astype(np.float32) / 255
    else:
        if not name.endswith(".npz") or not pathlib.Path(name).exists():
            raise ValueError(
                f"data {name!r} must be one of {', '.join(_DATASETS)}, or an .npz file that exists"
            )
        try:
            with open(name, "rb") as file, np.load(file) as arrays:
                held = {key: arrays[key] for key in arrays.files if key in ("x", "y")}
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"data {name!r} is damaged: {error}") from None
        if len(held) < 2:
            raise ValueError(f"data {name!r} must hold the arrays x and y")
        for key, array in held.items():
            if array.ndim == 0 or array.dtype.kind not in "fiub":
                raise ValueError(
                    f"data {name!r}: {key} has shape {array.shape} and dtype {array.dtype}; it "
                    "must be numbers, one or more for each example"
                )
        x, y = held["x"], held["y"]
    count = len(x) if batch_size is None else min(batch_size, len(x))
    x, y = x[:count], y[:count]
    inputs = getattr(model, "inputs", None)
    wanted = inputs[0].shape if inputs and len(inputs) == 1 else None
    if name in _DATASETS and wanted is not None and len(wanted) == 4:
        x = x[..., None] if x.ndim == 3 else x
        if None not in wanted[1:3] and x.shape[1:3] != tuple(wanted[1:3]):
            x = tf.image.resize(x, wanted[1:3]).numpy()
        if x.shape[-1] == 1 and wanted[-1] == 3:
            x = np.repeat(x, 3, -1)
    return x, y.ravel() if name in _DATASETS else y


def _classification_loss(model, data):
    """Cross-entropy, of logits unless the model's outputs are probabilities."""
    try:
        outputs = model(data[0][:2], training=False)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(f"data does not fit the model: {first_line(error)}") from None
    if tf.is_tensor(outputs) and np.allclose(np.sum(outputs, -1), 1, atol=1e-3):
        return tf.keras.losses.SparseCategoricalCrossentropy()
    return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _chunk(text):
    if text == "none":
        return None
    return text if text == "best" else int(text)


def _terms(text):
    value = float(text)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is no integer")
    return int(value)


def _shape(text):
    return tuple(int(part) for part in text.split(","))


def _float_format(text):
    exponent, mantissa = (int(part) for part in text.split(","))
    try:
        return FloatFormat(exponent, mantissa)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# What argparse says of a value that these refuse.
_chunk.__name__, _terms.__name__, _shape.__name__ = "chunk", "number of terms", "shape"
_float_format.__name__ = "format"
