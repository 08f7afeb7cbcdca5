"""How a plan is shown: a table in the terminal, plain text, a picture."""

import pathlib

from tf_lowprec.analysis.gemms import PASSES
from tf_lowprec.analysis.tables import Table


def bits(sum_):
    """The accumulator's mantissa bits, and in brackets what the rule asks: normal/chunked."""
    if sum_.is_last:
        return f"{sum_.mantissa_bits} (given)"
    asked = ">23" if sum_.normal is None else str(sum_.normal)
    if sum_.chunk is not None:
        asked += f"/{'>23' if sum_.chunked is None else sum_.chunked}"
    return f"{sum_.mantissa_bits} ({asked})"


def title(plan):
    """One line that says what the plan is."""
    chunk = {None: "one sum", "best": "chunks of sqrt(n)"}.get(plan.chunk, f"chunk {plan.chunk}")
    threshold = f"v(n) < {plan.threshold:g}" if plan.rule == "vrr" else f"noise {plan.threshold:g}"
    line = f"{plan.model}, batch {plan.batch_size}: mantissa bits of (1,{plan.exponent_bits},m) "
    line += f"accumulators, {chunk}, {plan.rounding.value}, {threshold}"
    return line + (f", PP = {plan.perturbation:+d}" if plan.perturbation else "")


def products(plan):
    """[(layer, product, {pass: PlannedSum})] in order."""
    rows = {}
    for s in plan.sums:
        rows.setdefault((s.layer, s.product), {})[s.which] = s
    return [(*key, passes) for key, passes in rows.items()]


def table(plan, by_pass=False):
    """See Plan.table."""
    measured = any(s.vrr is not None or s.nzr < 1 for s in plan.sums)
    caption = "bits used (asked for: normal/chunked)" if plan.chunk else "bits used (asked for)"
    for path, kind, reason in plan.unknown:
        caption += f"\nnot planned: {path} {f'({kind}) ' if kind else ''}- {reason}"
    rich_table = Table(title=title(plan), caption=caption, caption_justify="left")
    rich_table.add_column("layer", overflow="fold", min_width=12)
    several = any(s.product != "kernel" for s in plan.sums)
    if several:
        rich_table.add_column("product")
    if by_pass:
        rich_table.add_column("pass")
    for which in ("",) if by_pass else PASSES:
        rich_table.add_column(f"{which} n".strip(), justify="right", no_wrap=True)
        rich_table.add_column("bits", justify="right", no_wrap=True)
        if measured:
            rich_table.add_column("NZR", justify="right", no_wrap=True)
            rich_table.add_column("VRR", justify="right", no_wrap=True)

    def cells_of(s):
        cells = ["", ""] if s is None else [f"{s.n:,}", bits(s)]
        if measured:
            cells.append("" if s is None else f"{s.nzr:.3g}")
            cells.append("" if s is None or s.vrr is None else f"{s.vrr:.4f}")
        return cells

    for layer, product, passes in products(plan):
        names = [layer, product] if several else [layer]
        if by_pass:
            for which in PASSES:
                if which in passes:
                    rich_table.add_row(*names, which, *cells_of(passes[which]))
                    names = [""] * len(names)
        else:
            cells = [cell for which in PASSES for cell in cells_of(passes.get(which))]
            rich_table.add_row(*names, *cells)
    return rich_table


def json_text(source):
    """`source` itself if it is JSON text, else what the file of that name holds."""
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return source
    return pathlib.Path(source).read_text()


def plot(plan, path):
    """See Plan.plot."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = products(plan)
    names = [layer if product == "kernel" else f"{layer} {product}" for layer, product, _ in rows]
    size = (max(6.0, 1.5 + 0.32 * len(rows)), 8.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, sharey=True)
    for axis, which in zip(axes, PASSES):
        here = [(i, passes[which]) for i, (_, _, passes) in enumerate(rows) if which in passes]
        planned = [(i, s) for i, s in here if not s.is_last]
        last = [(i, s) for i, s in here if s.is_last]
        axis.bar(
            [i - 0.2 for i, s in planned],
            [s.normal or 24 for _, s in planned],
            0.4,
            color="C0",
            label="normal",
        )
        if plan.chunk is not None:
            label = "chunks of sqrt(n)" if plan.chunk == "best" else f"chunk {plan.chunk}"
            bars = [s.chunked or 24 for _, s in planned]
            axis.bar([i + 0.2 for i, _ in planned], bars, 0.4, color="C1", label=label)
        if last:
            bars = [s.mantissa_bits for _, s in last]
            axis.bar([i for i, _ in last], bars, 0.4, color="0.6", label="given")
        if plan.perturbation:
            axis.plot([i for i, _ in here], [s.mantissa_bits for _, s in here], "k_", label="used")
        axis.set_ylabel(f"{which}: mantissa bits")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(axis="y", alpha=0.3)
    axes[0].legend(ncols=4, fontsize="small")
    axes[-1].set_xticks(range(len(rows)), names, rotation=90, fontsize="small")
    figure.suptitle(title(plan), fontsize="small")
    figure.savefig(path, dpi=120)
