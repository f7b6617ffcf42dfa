"""The dataset card: a release's `README.md`, which dataset hubs and people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["dataset_card"]

_HEADER = """---
pretty_name: {name}
tags: [spurious-correlation, background, counteranimal]
configs:
- config_name: default
  data_files:
{files}
---

# {name}

Version {version}. {photos} photos of {classes} animal classes, each class on a background where a
model does well (`common`) and one where it does badly (`counter`).
{notice}
## Groups

{pairs}

{rule}

## Licences

{licenses}

`ATTRIBUTION.csv` names the creator, the licence and the source of every photo. `checksums.sha256`
has the digest of every file (`sha256sum --check checksums.sha256`, or `cap release --verify .`),
and `CHANGES.md` tells what changed between versions.

## Reading it

```python
from manifests import load_split

split = load_split("{name}/")
image, label, record = split.group("counter")[0]
```
"""

_PAPER_RULE = """
The groups were chosen by the paper's rule: per class the backgrounds with the highest and the
lowest accuracy of one model. The accuracies above are of that model on these very photos, so that
the drops are larger than another model's or other photos' would be.
"""

_CONTROLLED_RULE = """
The photos are divided, by observer, into `validation` and `test` (column `partition`). On
validation, the accuracy of one model was tested in each class for dependence on the background
(permutations, false discovery rate over all classes), and the two backgrounds that differ most were
chosen; photos and accuracies above are those of validation. The honest drop is the same model's on
test, which had no part in the choice, with its 95 % interval. Report a model on `test`, or name the
model that chose: {run}.
"""

_NOTICE = """
**Not for redistribution**: some photos have a licence that does not allow passing them on, or none
that is known.
"""


_GROUP_COLUMNS = ("background", "photos", "accuracy")


def _cell(text: object) -> str:
    """Text as a cell of a Markdown table, without markup of its own."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _pair_rows(pairs: Sequence[Mapping[str, Any]], *, controlled: bool) -> list[str]:
    """A Markdown table of the pairs."""
    columns = ["class"]
    columns += [f"{group} {what}" for group in ("common", "counter") for what in _GROUP_COLUMNS]
    columns += ["drop", "q", "honest drop"] if controlled else ["drop"]
    rows = [columns, ["---"] * len(columns)]
    for pair in pairs:
        cells = [_cell(pair["class_name"])]
        for group in ("common", "counter"):
            cells += [
                pair[f"{group}_background"],
                str(pair[f"{group}_photos"]),
                f"{pair[f'{group}_accuracy']:.3f}",
            ]
        cells.append(f"{pair['drop']:.3f}")
        if controlled:
            cells += [f"{pair['q_value']:.2g}", _honest_drop(pair)]
        rows.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _honest_drop(pair: Mapping[str, Any]) -> str:
    if pair["drop_honest"] is None:
        return "no test photos"
    interval = f"{pair['drop_ci_low']:.3f} to {pair['drop_ci_high']:.3f}"
    return f"{pair['drop_honest']:.3f} ({interval})"


def dataset_card(manifest: Mapping[str, Any]) -> str:
    """The card's text.

    Parameters
    ----------
    manifest
        Content of the release's `release.json`.
    """
    controlled = any(pair.get("chosen_by") for pair in manifest["pairs"])
    rule = _CONTROLLED_RULE if controlled else _PAPER_RULE
    files = [
        f"  - split: {group}\n    path: data/{group}-*.parquet" for group in manifest["groups"]
    ]
    licenses = [f"- {name}: {count} photos" for name, count in manifest["licenses"].items()]
    left_out = sum(manifest["left_out"].values())
    if left_out:
        licenses.append(f"- left out for their licence: {left_out} photos")
    return _HEADER.format(
        name=manifest["name"],
        version=manifest["version"],
        files="\n".join(files),
        photos=manifest["photos"],
        classes=len(manifest["pairs"]),
        notice="" if manifest["redistribution"] else _NOTICE,
        pairs="\n".join(_pair_rows(manifest["pairs"], controlled=controlled)),
        rule=rule.strip().format(run=manifest["pairs"][0]["run"] if manifest["pairs"] else ""),
        licenses="\n".join(licenses),
    )
