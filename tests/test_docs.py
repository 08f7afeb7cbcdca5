"""The examples in the docs run, page by page and notebook by notebook."""

import json
import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = ["start.md", "convert.md", "watch.md", "export.md"]
NOTEBOOKS = ["narrow_accumulators", "fixed_point", "adacomp"]


def run(blocks, name):
    namespace = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{name}, block {number + 1}", "exec"), namespace)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    assert blocks
    run(blocks, page)


def cells(name):
    return json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text())["cells"]


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(name, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    with plt.rc_context():
        run(["".join(c["source"]) for c in cells(name) if c["cell_type"] == "code"], name)
    plt.close("all")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_saved_as_run(name):
    # `make notebooks` runs them: no log lines, no folders of the machine, no times.
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["metadata"] == {} for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = "".join("".join(o.get("text", [])) for o in outputs)
    assert not re.search(r"/root|/home|/tmp|WARNING|INFO:", text)
    assert "stderr" not in [output.get("name") for output in outputs]


def test_every_page_of_the_nav_exists():
    config = (DOCS.parent / "mkdocs.yml").read_text()
    pages = re.findall(r"^ +- .*: (\S+\.(?:md|ipynb))$", config, re.M)
    assert len(pages) > 10
    assert [page for page in pages if not (DOCS / page).exists()] == []
    assert {f"notebooks/{name}.ipynb" for name in NOTEBOOKS} <= set(pages)
