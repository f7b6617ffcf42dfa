"""The dataset card: a release's `README.md`, which dataset hubs and people read."""

from __future__ import annotations

from collections.abc import Mapping
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

{photos} photos of {classes} animal classes, each class on a background where a model does well
(`common`) and one where it does badly (`counter`).
{notice}
## Groups

| class | common | photos | accuracy | counter | photos | accuracy | drop |
|---|---|---|---|---|---|---|---|
{pairs}

The groups were chosen by the paper's rule: per class the backgrounds with the highest and the
lowest accuracy of one model. The accuracies above are of that model on these very photos, so that
the drops are larger than another model's or other photos' would be.

## Licences

{licenses}

## Reading it

```python
from manifests import load_split

split = load_split("{name}/")
image, label, record = split.group("counter")[0]
```
"""

_NOTICE = """
**Not for redistribution**: some photos have a licence that does not allow passing them on, or none
that is known.
"""


def _cell(text: object) -> str:
    """Text as a cell of a Markdown table, without markup of its own."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def dataset_card(manifest: Mapping[str, Any]) -> str:
    """The card's text.

    Parameters
    ----------
    manifest
        Content of the release's `release.json`.
    """
    pairs = [
        f"| {_cell(p['class_name'])} | {p['common_background']} | {p['common_photos']} "
        f"| {p['common_accuracy']:.3f} | {p['counter_background']} | {p['counter_photos']} "
        f"| {p['counter_accuracy']:.3f} | {p['drop']:.3f} |"
        for p in manifest["pairs"]
    ]
    files = [
        f"  - split: {group}\n    path: data/{group}-*.parquet" for group in manifest["groups"]
    ]
    licenses = [f"- {name}: {count} photos" for name, count in manifest["licenses"].items()]
    left_out = sum(manifest["left_out"].values())
    if left_out:
        licenses.append(f"- left out for their licence: {left_out} photos")
    return _HEADER.format(
        name=manifest["name"],
        files="\n".join(files),
        photos=manifest["photos"],
        classes=len(manifest["pairs"]),
        notice="" if manifest["redistribution"] else _NOTICE,
        pairs="\n".join(pairs),
        licenses="\n".join(licenses),
    )
