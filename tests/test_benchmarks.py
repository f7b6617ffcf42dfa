"""The table of all benchmarks: what it says, and how it remembers."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY


@pytest.fixture(scope="module")
def benchmarks():
    """The module that `python -m benchmarks` runs."""
    spec = importlib.util.spec_from_file_location(
        "all_benchmarks", REPOSITORY / "benchmarks" / "__main__.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def remember(file: Path, value: float, *, on: str = "2 cores", short: bool = False) -> None:
    figures = {"dedup: of decoding alone": value}
    run = {"machine": on, "short": short, "figures": figures, "rates": {"dedup": 1000 * value}}
    with file.open("a") as handle:
        handle.write(json.dumps(run) + "\n")


def test_earlier_runs_count_on_the_same_machines_and_whole(benchmarks, tmp_path):
    history = tmp_path / "history.jsonl"
    assert benchmarks.earlier(history, "2 cores") == {}
    remember(history, 0.8)
    remember(history, 0.7, on="16 cores")
    remember(history, 0.1, short=True)
    remember(history, 0.6)
    assert benchmarks.earlier(history, "2 cores") == {
        "dedup: of decoding alone": [0.8, 0.6],
        "dedup": [800.0, 600.0],
    }


def test_a_figure_that_is_a_tenth_worse_is_marked(benchmarks):
    line = benchmarks.line("dedup", 900.0, "decoding alone", 1000.0, {"imagededup": 300.0})
    assert line.figures == {
        "dedup: of decoding alone": 0.9,
        "dedup: beside imagededup": 3.0,
    }
    kilobytes = "growth of memory, kB a photo"
    figures = {
        **line.figures,
        "dedup: growth of time": 1.2,
        f"collect: {kilobytes}": -0.1,
        f"dedup: {kilobytes}": 3.0,
    }
    past = {
        "dedup: of decoding alone": [0.91],
        "dedup: beside imagededup": [4.0],
        "dedup: growth of time": [1.0],
        f"collect: {kilobytes}": [0.1],
        f"dedup: {kilobytes}": [1.9],
        "dedup": [850.0],
    }
    told = benchmarks.table([line], figures, past)
    assert "| dedup | 900.0 | 850.0 | decoding alone 1,000.0 | 0.900 | imagededup 3.00 |" in told
    assert "| dedup: of decoding alone | 0.900 | 0.910 |  |" in told
    assert "| dedup: beside imagededup | 3.000 | 4.000 | worse |" in told
    assert "| dedup: growth of time | 1.200 | 1.000 | worse |" in told
    assert f"| collect: {kilobytes} | -0.100 | 0.100 |  |" in told
    assert f"| dedup: {kilobytes} | 3.000 | 1.900 | worse |" in told


def test_every_script_of_the_table_is_there(benchmarks):
    source = (REPOSITORY / "benchmarks" / "__main__.py").read_text()
    for name in ("download", "hashing", "scoring", "loading", "growth"):
        assert f'script("{name}"' in source
        assert (REPOSITORY / "benchmarks" / f"{name}.py").is_file()
