"""Tables that rich shows, and print() too."""

import io

import rich.table
from rich.console import Console
from rich.measure import Measurement


class Table(rich.table.Table):
    """A rich.table.Table; ``str`` of it is its text, as wide as it needs."""

    def __str__(self):
        return plain_text(self)


def needed_width(rich_table):
    """Of a terminal that shows a table of rich's without cutting it."""
    console = Console(width=10_000)
    return Measurement.get(console, console.options, rich_table).maximum


def plain_text(rich_table):
    """A table of rich's as plain text, as wide as it needs."""
    # In a notebook rich would show the table itself and leave the text empty.
    plain = {"force_terminal": False, "force_jupyter": False, "color_system": None}
    width = max(80, needed_width(rich_table))
    console = Console(file=io.StringIO(), width=width, **plain)
    console.print(rich_table)
    return console.file.getvalue()
