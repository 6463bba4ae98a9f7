"""The examples in docstrings: whoever copies one gets what stands there."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import spinnerf_ns

PACKAGE = Path(spinnerf_ns.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("spinnerf_ns", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    examples = [test for test in found if test.examples]
    assert examples
    for test in examples:
        folder = tmp_path / test.name
        folder.mkdir()
        monkeypatch.chdir(folder)
        said: list[str] = []
        doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
        assert not said, "".join(said)
