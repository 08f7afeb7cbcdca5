"""The examples in the docs run, page by page."""

import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = ["start.md", "convert.md", "watch.md", "export.md"]


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    assert blocks
    namespace = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), namespace)


def test_every_page_of_the_nav_exists():
    config = (DOCS.parent / "mkdocs.yml").read_text()
    pages = re.findall(r"^ +- .*: (\S+\.md)$", config, re.M)
    assert len(pages) > 10
    assert [page for page in pages if not (DOCS / page).exists()] == []
