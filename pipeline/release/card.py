"""The dataset card: a release's `README.md`, which dataset hubs and people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from manifests.vocabulary import licenses
from pipeline.release.features import card_features
from pipeline.release.words import Words

__all__ = ["dataset_card"]

_BODY = """
# {name}

Version {version}. {summary}
{notice}
## Groups

{pairs}

{rule}

## What it is for

{uses}

## What to beware of

{caveats}

## How it was made

{collection}

{preprocessing}

{annotation}

{personal}

## Licences

{licenses}

`ATTRIBUTION.csv` names the creator, the licence and the source of every photo. `checksums.sha256`
has the digest of every file (`sha256sum --check checksums.sha256`, or `cap release --verify .`).

## Versions

{maintenance}

## Reading it

```python
from manifests import load_split  # pip install counteranimal-pipeline

split = load_split("{name}/")
image, label, record = split.group("counter")[0]
accuracy = split.evaluate(predictions)  # {{photo_id: predicted class index}}
```

It is plain Parquet too: `datasets.load_dataset("{name}/")` decodes the photos by itself, and
pandas, DuckDB and mlcroissant (`croissant.json`) read it. `results/` holds the accuracies of models
that were measured already.

## Citing it

{citation}
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

_HUB_LICENSES = {
    "cc0": "cc0-1.0",
    "cc-by": "cc-by-4.0",
    "cc-by-sa": "cc-by-sa-4.0",
    "cc-by-nc": "cc-by-nc-4.0",
    "cc-by-nc-sa": "cc-by-nc-sa-4.0",
    "cc-by-nd": "cc-by-nd-4.0",
    "cc-by-nc-nd": "cc-by-nc-nd-4.0",
}
"""Licences as the hub names them; a release with any other is `other`."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def _head(manifest: Mapping[str, Any]) -> str:
    """The YAML that hubs and `datasets` read."""
    photos, groups = manifest["photos"], manifest["groups"]
    sizes = {
        group: sum(s["bytes"] for s in manifest["shards"] if s["file"].startswith(f"data/{group}-"))
        for group in groups
    }
    codes = list(manifest["licenses"])
    hub = [_HUB_LICENSES[code] for code in codes if code in _HUB_LICENSES]
    known = len(hub) == len(codes)
    head = {
        "pretty_name": manifest["name"],
        "license": (hub[0] if len(hub) == 1 else hub) if known else "other",
        **({} if known else {"license_name": "per-photo", "license_link": "ATTRIBUTION.csv"}),
        "task_categories": ["image-classification", "zero-shot-image-classification"],
        "tags": ["spurious-correlation", "background", "robustness", "counteranimal", "croissant"],
        "size_categories": [next((name for most, name in _SIZES if photos < most), "n>1M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": group, "path": f"data/{group}-*.parquet"} for group in groups
                ],
            }
        ],
        "dataset_info": {
            "features": card_features(),
            "splits": [
                {"name": group, "num_bytes": sizes[group], "num_examples": groups[group]}
                for group in groups
            ],
            "download_size": sum(sizes.values()),
            "dataset_size": sum(sizes.values()),
        },
    }
    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100))


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


def _license_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Photos by licence, then what is only linked, and what was left out."""
    known = licenses()
    lines = []
    for code, count in manifest["licenses"].items():
        name, url = known[code].name, known[code].url
        lines.append(f"{f'[{name}]({url})' if url else name} (`{code}`): {count} photos")
    if manifest["linked"]:
        lines.append(
            f"{manifest['linked']} of these photos are only linked: `image.bytes` is empty and "
            "`image.path` is the address; the loader fetches and verifies them"
        )
    for code, count in manifest["left_out"].items():
        lines.append(f"left out, {known[code].name} (`{code}`): {count} photos")
    if manifest["left_out_without_url"]:
        lines.append(
            f"of those left out, {manifest['left_out_without_url']} would be links, had they an "
            "address on the web"
        )
    return lines


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def dataset_card(manifest: Mapping[str, Any], words: Words) -> str:
    """The card's text.

    Parameters
    ----------
    manifest
        Content of the release's `release.json`.
    words
        What it says of itself.
    """
    controlled = any(pair.get("chosen_by") for pair in manifest["pairs"])
    rule = _CONTROLLED_RULE if controlled else _PAPER_RULE
    body = _BODY.format(
        name=manifest["name"],
        version=manifest["version"],
        summary=words.summary,
        notice="" if manifest["redistribution"] else _NOTICE,
        pairs="\n".join(_pair_rows(manifest["pairs"], controlled=controlled)),
        rule=rule.strip().format(run=manifest["chosen_by"]["run"]),
        uses=_list(words.uses),
        caveats=_list([*words.caveats, *words.limitations]),
        collection=words.collection,
        preprocessing=words.preprocessing,
        annotation=words.annotation,
        personal=words.personal,
        licenses=_list(_license_lines(manifest)),
        maintenance=words.maintenance,
        citation=words.citation,
    )
    return f"---\n{_head(manifest)}---\n{body}"
