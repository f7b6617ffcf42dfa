"""A folder of results: a JSON file per evaluation, its predictions, and tables over all of them.

An evaluation is one model on one partition of one release over one label space; its name says so by
a digest, so that results of other configurations stand beside it and are never mixed with it.

```
results/evaluations/<evaluation>.json       everything needed to repeat it, and its numbers
results/predictions/<evaluation>.parquet    the answer to each photo
results/results.parquet, results.csv        every number of every evaluation, a row each
results/comparisons.parquet, .csv           every two models evaluated together
```
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from annotation.spreadsheet import guarded
from manifests.errors import CapError
from manifests.schema import COMPARISONS, PREDICTIONS, RESULTS, TableSchema
from manifests.tables import (
    from_rows,
    read_table,
    replacing,
    table_digest,
    validate,
    write_bytes,
    write_table,
)

__all__ = ["ResultsFolder", "evaluated", "tidy"]


def tidy(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of `results` from the content of an evaluation's file."""
    about = {
        "evaluation": evaluation["evaluation"],
        "model": evaluation["model"]["name"],
        "model_digest": evaluation["model"]["digest"],
        "family": evaluation["model"]["family"],
        **evaluated(evaluation),
        "chose_pairs": evaluation["chose_pairs"],
    }
    parts = {"*": evaluation["measures"], **evaluation["classes"]}
    return [
        {**about, "class_name": class_name, "measure": name, "group": group, **numbers}
        for class_name, measures in parts.items()
        for name, groups in measures.items()
        for group, numbers in groups.items()
    ]


def evaluated(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The columns that `results` and `comparisons` share: what was evaluated, and how."""
    return {
        "release": evaluation["release"]["name"],
        "release_digest": evaluation["release"]["digest"],
        "label_space": evaluation["label_space"]["name"],
        "label_space_digest": evaluation["label_space"]["digest"],
        **{name: evaluation["parameters"][name] for name in ("partition", "resamples", "seed")},
    }


_PAIR = ("evaluation", "other")


def _content(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{file} is no evaluation ({error}); remove it and evaluate again"
        raise CapError(msg) from error
    return content


def _pairs(comparisons: pa.Table) -> set[tuple[str, str]]:
    return set(zip(*(comparisons[name].to_pylist() for name in _PAIR), strict=True))


class ResultsFolder:
    """Reads and writes a folder of results."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def standing(self, name: str) -> tuple[dict[str, Any], pa.Table] | None:
        """Content of an evaluation's file and its answers to the photos, if both are there."""
        if not (self._json(name).is_file() and self._predictions(name).is_file()):
            return None
        return _content(self._json(name)), read_table(self._predictions(name), PREDICTIONS)

    def comparisons(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Rows of `comparisons` of some pairs of evaluations."""
        rows = self._comparisons().to_pylist()
        return [row for row in rows if (row["evaluation"], row["other"]) in pairs]

    def holds(
        self,
        evaluations: Sequence[dict[str, Any]],
        pairs: Sequence[tuple[str, str]],
        drawn: Mapping[str, int],
    ) -> bool:
        """Whether the tables have every number of these evaluations, and compare these pairs.

        A file may be newer than the tables, where writing them was interrupted.

        Parameters
        ----------
        evaluations
            Contents of evaluations' files.
        pairs
            Names of two evaluations each that are compared.
        drawn
            The `resamples` and the `seed` of the comparisons.
        """
        path = self.root / "results.parquet"
        if not path.is_file():
            return False
        results = read_table(path, RESULTS)
        names = pa.array([evaluation["evaluation"] for evaluation in evaluations], pa.string())
        standing = results.filter(pc.is_in(results["evaluation"], names))
        rows = [row for evaluation in evaluations for row in tidy(evaluation)]
        expected = validate(from_rows(rows, RESULTS.schema), RESULTS)
        alike = [
            row
            for row in self._comparisons().select([*_PAIR, *drawn]).to_pylist()
            if all(row[name] == value for name, value in drawn.items())
        ]
        there = {tuple(row[name] for name in _PAIR) for row in alike}
        return table_digest(standing) == table_digest(expected) and set(pairs) <= there

    def write(
        self,
        evaluations: Sequence[tuple[dict[str, Any], pa.Table]],
        comparisons: Sequence[dict[str, Any]],
    ) -> None:
        """Write evaluations with their predictions, then the tables over all that is here."""
        with self._alone():
            for evaluation, predictions in evaluations:
                name = evaluation["evaluation"]
                write_table(self._predictions(name), predictions, PREDICTIONS)
                text = json.dumps(evaluation, indent=2, sort_keys=True, ensure_ascii=False)
                write_bytes(self._json(name), f"{text}\n".encode("utf-8", "backslashreplace"))
            fresh = from_rows(comparisons, COMPARISONS.schema)
            self._write("comparisons", self._with_others(fresh), COMPARISONS)
            files = sorted((self.root / "evaluations").glob("*.json"))
            rows = [row for file in files for row in tidy(_content(file))]
            self._write("results", from_rows(rows, RESULTS.schema), RESULTS)

    def _with_others(self, fresh: pa.Table) -> pa.Table:
        """Comparisons that are there already, but for those that are made anew."""
        standing, made = self._comparisons(), _pairs(fresh)
        keys = zip(*(standing[name].to_pylist() for name in _PAIR), strict=True)
        others = pa.array([key not in made for key in keys], pa.bool_())
        return pa.concat_tables([standing.filter(others), fresh])

    def _comparisons(self) -> pa.Table:
        path = self.root / "comparisons.parquet"
        return read_table(path, COMPARISONS) if path.is_file() else COMPARISONS.schema.empty_table()

    def _write(self, name: str, rows: pa.Table, spec: TableSchema) -> None:
        table = validate(rows, spec)
        for position, field in enumerate(table.schema):
            if pa.types.is_string(field.type):
                cells = pa.array(
                    [guarded(cell) for cell in table[field.name].to_pylist()], pa.string()
                )
                table = table.set_column(position, field, cells)
        with replacing(self.root / f"{name}.csv") as temporary:
            pyarrow.csv.write_csv(table, temporary)
        # Last, since it says that the evaluations in it are done.
        write_table(self.root / f"{name}.parquet", rows, spec)

    def _json(self, name: str) -> Path:
        return self.root / "evaluations" / f"{name}.json"

    def _predictions(self, name: str) -> Path:
        return self.root / "predictions" / f"{name}.parquet"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing the tables meanwhile."""
        from filelock import FileLock

        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".lock"):
                yield
        except OSError as error:
            msg = f"{self.root} cannot be written: {error.strerror or error}"
            raise CapError(msg) from error
