"""Executes notebooks in place: `make notebooks`.

    .venv-notebooks/bin/python tools/notebooks.py docs/notebooks/*.ipynb

What is saved depends on the cells alone: no times of execution, no log lines (stderr is shown here
instead), no versions of the machine that ran them. A cell that fails leaves its notebook as it was.
"""

import pathlib
import sys
import tempfile

import nbformat
from nbclient import NotebookClient

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path):
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # A kernel of this environment, whose python sees TensorFlow; files go into the folder.
        NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"  # else made at random
        cell.metadata.clear()
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                print(f"{path}, cell {number}: {output.text}", file=sys.stderr)
            else:
                kept.append(output)
        cell.outputs = kept
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    path.write_text(nbformat.writes(notebook, indent=1) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name)
        execute(pathlib.Path(name))
