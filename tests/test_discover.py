"""`cap discover`: what it finds of a planted shortcut, what it refuses, and what is no finding."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings

from manifests.errors import CapError
from manifests.progress import Progress
from manifests.workspace import Workspace
from pipeline.discover import discover
from pipeline.discover.findings import Bar, Regions, Search, find
from pipeline.models.boxes import Box
from pipeline.models.open_clip_family import OpenClipModel
from pipeline.parameters import DiscoverParameters, ReportParameters
from pipeline.report import report
from pipeline.status import failures

FEW = Search(clusters=range(4, 9), draws=200, resamples=50)


def planted(seed: int = 0, *, images: int = 200, share: float = 0.5) -> Regions:
    """Two labels and four regions an image; `share` of the images have the region 3 of kind 9.

    The model calls whatever has it label 0, and is wrong about three of ten others.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(images) % 2
    has = rng.random(images) < share
    kind = np.stack([label, np.full(images, 2), np.full(images, 3), np.where(has, 9, 4)], axis=1)
    centres = rng.normal(size=(10, 24))
    embeddings = centres[kind.ravel()] + 0.3 * rng.normal(size=(4 * images, 24))
    predicted = np.where(has, 0, np.where(rng.random(images) < 0.3, 1 - label, label))
    probability = np.select([kind == 9, kind == 4], [0.9, 0.1], 0.4) + 0.01 * rng.random(kind.shape)
    return Regions(
        embeddings=embeddings.astype(np.float32),
        image=np.repeat(np.arange(images), 4),
        probability=probability.ravel().astype(np.float32),
        label=label,
        correct=predicted == label,
        labels=2,
    )


# The core


def test_a_planted_feature_is_the_first_cluster_and_tied_to_its_label():
    regions = planted()
    found = find(regions, Bar(), FEW)
    (first,) = np.flatnonzero(found.ranks == 1)
    own = np.flatnonzero(found.clustering.cluster == first)
    assert set(own % 4) == {3}
    assert np.all(regions.probability[own] > 0.8)
    assert len(own) == (regions.probability > 0.8).sum()
    assert found.gaps.tied_label[first] == 0
    assert found.influence[first] == 1
    assert found.q_values[first] <= 0.05
    assert found.intervals[first, 0] <= found.gaps.total[first] <= found.intervals[first, 1]


def literally_ranked(found, bar: Bar) -> list[int]:
    """Section A.2 of the method, step 5, word by word."""
    kept = [
        cluster
        for cluster in range(len(found.influence))
        if found.influence[cluster] >= bar.influence
        and (
            not bar.two_sided
            or (
                any(gap > 0 for gap in found.gaps.weighted[cluster])
                and any(gap < 0 for gap in found.gaps.weighted[cluster])
            )
        )
    ]
    return sorted(kept, key=lambda cluster: -found.gaps.total[cluster])


@settings(max_examples=15)
@given(
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.booleans(),
    st.floats(0.05, 0.95),
)
def test_ranks_and_reasons_follow_the_published_rule(seed, influence, two_sided, share):
    rng = np.random.default_rng(seed)
    regions = planted(seed, images=60, share=share)
    regions = replace(regions, correct=rng.random(60) < 0.6, labels=2)
    bar = Bar(influence, two_sided)
    found = find(regions, bar, replace(FEW, draws=10, resamples=10))
    ranked = literally_ranked(found, bar)
    assert [found.ranks[cluster] for cluster in ranked] == list(range(1, len(ranked) + 1))
    assert (found.ranks > 0).sum() == len(ranked)
    assert [cluster for cluster, why in enumerate(found.reasons) if why is None] == sorted(ranked)


def test_only_the_direction_of_embeddings_counts():
    regions = planted()
    lengths = np.random.default_rng(1).uniform(0.1, 10, (len(regions.image), 1))
    longer = replace(regions, embeddings=(regions.embeddings * lengths).astype(np.float32))
    one, other = find(regions, Bar(), FEW), find(longer, Bar(), FEW)
    assert np.array_equal(one.clustering.cluster, other.clustering.cluster)
    assert np.array_equal(one.ranks, other.ranks)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_embedding_without_direction_is_one_line(value):
    regions = planted(images=20)
    embeddings = regions.embeddings.copy()
    embeddings[3] = value
    with pytest.raises(CapError, match="no direction"):
        find(replace(regions, embeddings=embeddings), Bar(), FEW)


def test_no_errors_is_an_answer():
    regions = planted()
    found = find(replace(regions, correct=np.ones(200, bool)), Bar(), FEW)
    assert not found.ranks.any()
    assert set(found.reasons) == {"no error is there that it could have decided"}


def test_one_class_is_an_answer():
    regions = planted()
    found = find(replace(regions, label=np.zeros(200, int), labels=1), Bar(), FEW)
    assert not found.ranks.any()
    assert "it helps no class" in found.reasons
    assert find(replace(regions, label=np.zeros(200, int), labels=1), Bar(), Search(draws=10))


def test_one_region_for_each_image_is_an_answer():
    regions = planted()
    last = np.arange(3, 800, 4)
    single = replace(
        regions,
        embeddings=regions.embeddings[last],
        image=np.arange(200),
        probability=regions.probability[last],
    )
    found = find(single, Bar(), FEW)
    assert set(single.decisive) == {-1}
    assert not found.ranks.any()


def test_too_few_regions_and_regions_that_are_all_alike_do_not_cluster():
    regions = planted(images=2)
    assert find(replace(regions, labels=9), Bar(), Search()) is None
    alike = replace(planted(), embeddings=np.ones((800, 24), np.float32))
    assert find(alike, Bar(), FEW) is None


def test_of_medoids_at_one_place_only_one_remains():
    regions = planted(images=40)
    few = np.random.default_rng(0).normal(size=(3, 24))[np.arange(160) % 3].astype(np.float32)
    found = find(replace(regions, embeddings=few), Bar(), replace(FEW, clusters=(5,)))
    assert len(found.clustering.medoids) == len(np.unique(found.clustering.cluster)) == 3


# The command


@pytest.fixture
def workspace(discovered: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it to change."""
    root = tmp_path / "demo"
    shutil.copytree(discovered.root, root)
    return Workspace(root)


def found_in(workspace: Workspace) -> list[dict]:
    (run,) = workspace.runs("discoveries")
    rows = workspace.read(f"discoveries/{run}").to_pylist()
    return sorted((row for row in rows if row["rank"]), key=lambda row: row["rank"])


def told(workspace: Workspace, **changes) -> tuple[str, dict, bool]:
    parameters = DiscoverParameters(**{"embed": "pool", "draws": 2000, **changes})
    outcome = discover(workspace, parameters, Progress())
    return outcome.text, dict(outcome.facts), outcome.fresh


def test_every_planted_shortcut_of_the_demo_is_found_without_its_tags(discovered):
    planted = json.loads((discovered.root / "planted.json").read_text())["pairs"]
    background = {
        row["photo_id"]: row["background"] for row in discovered.read("labels").to_pylist()
    }
    first = {}
    for row in found_in(discovered):
        if row["q_value"] <= 0.05:
            behind = Counter(background.get(member["photo_id"]) for member in row["members"])
            first.setdefault(row["class_name"], behind.most_common(1)[0][0])
    assert first == {name: pair["common"] for name, pair in planted.items() if pair}


def test_a_finding_says_what_its_columns_mean(discovered):
    (run,) = discovered.runs("discoveries")
    regions = discovered.read(f"regions/{run}")
    correct = {
        row["photo_id"]: row["correct"]
        for row in discovered.read(f"predictions/{run}").to_pylist()
        if row["correct"] is not None
    }
    class_of = {row["photo_id"]: row["class_name"] for row in discovered.read("photos").to_pylist()}
    rows = discovered.read(f"discoveries/{run}").to_pylist()
    assert sum(row["regions"] for row in rows) == regions.num_rows
    for row in rows:
        having = {member["photo_id"] for member in row["members"]}
        assert row["photos"] == len(having)
        assert row["members"][0]["similarity"] == pytest.approx(1, abs=1e-3)
        similarities = [member["similarity"] for member in row["members"][1:]]
        assert similarities == sorted(similarities, reverse=True)
        differences = []
        for told_of in row["classes"]:
            own = [p for p in correct if class_of[p] == told_of["class_name"]]
            inside = [correct[p] for p in own if p in having]
            outside = [correct[p] for p in own if p not in having]
            assert (told_of["photos_in"], told_of["photos_out"]) == (len(inside), len(outside))
            if not (inside and outside):
                assert told_of["gap"] is None
                continue
            difference = np.mean(inside) - np.mean(outside)
            weight = 2 * min(len(inside), len(outside)) / len(own)
            assert told_of["gap"] == pytest.approx(weight * difference, abs=1e-9)
            differences.append(difference)
            if told_of["class_name"] == row["class_name"]:
                assert row["difference"] == pytest.approx(difference)
        assert row["difference"] == pytest.approx(max(differences, default=None))


def test_what_was_found_is_fresh_until_something_changes(workspace):
    text, facts, fresh = told(workspace)
    assert fresh
    assert facts["kept"]
    assert f"the model leans on {len(facts['kept'])} of {facts['clusters']} clusters" in text
    assert not told(workspace, min_influence=0.9)[2]
    before = workspace.digest(f"regions/{facts['run']}")
    assert not told(workspace, min_influence=0.9, seed=1)[2]
    assert workspace.digest(f"regions/{facts['run']}") == before


def test_regions_that_are_cut_out_are_looked_at_anew_and_tell_much_the_same(workspace):
    _, pooled, _ = told(workspace)
    _, cut, fresh = told(workspace, embed="crop")
    assert not fresh
    names = {
        kind: {row["class_name"] for row in facts["kept"] if row["q_value"] <= 0.05}
        for kind, facts in (("pool", pooled), ("crop", cut))
    }
    assert len(names["pool"] & names["crop"]) >= 3


def test_a_photo_that_cannot_be_read_any_more_is_told_and_counts_nowhere(workspace):
    (run,) = workspace.runs("discoveries")
    photo = workspace.read(f"regions/{run}")["photo_id"][0].as_py()
    photos = workspace.read("photos")
    row = photos.filter(pc.equal(photos["photo_id"], photo)).to_pylist()[0]
    (workspace.root / row["path"]).write_bytes(b"no photo")
    text, facts, _ = told(workspace, grid=1, clusters="5-6")
    assert facts["failed"] == 1
    assert "1 photos failed" in text
    assert [failed["photo_id"] for failed in failures(workspace)].count(photo) == 1
    rows = workspace.read(f"discoveries/{run}").to_pylist()
    assert {m["photo_id"] for r in rows for m in r["members"]}.isdisjoint({photo})


def test_boxes_of_a_file_are_looked_at_and_photos_without_any_have_no_cluster(workspace):
    (run,) = workspace.runs("discoveries")
    ids = sorted(set(workspace.read(f"regions/{run}")["photo_id"].to_pylist()))
    file = workspace.root / "boxes.csv"
    lines = [f"{photo},{x},0,{x + 32},64" for photo in ids[::2] for x in (0, 32)]
    file.write_text("\n".join(["photo_id,left,top,right,bottom", *lines]))
    _, facts, _ = told(workspace, boxes=str(file))
    assert facts["regions"] == len(lines)
    receipt = workspace.receipt(f"regions/{run}")
    assert receipt.parameters["grid"] is None
    assert told(workspace, boxes=str(file))[2]
    moved = file.read_text().replace(",0,0,32,64", ",0,1,32,64", 1)
    file.write_text(moved)
    assert not told(workspace, boxes=str(file))[2]
    assert workspace.receipt(f"regions/{run}").inputs["boxes"] != receipt.inputs["boxes"]
    rows = workspace.read(f"discoveries/{run}").to_pylist()
    counted = {sum(c["photos_in"] + c["photos_out"] for c in row["classes"]) for row in rows}
    assert counted == {len(ids)}
    file.write_text(f"photo_id,left,top,right,bottom\n{ids[0]},5000,0,5001,9\n")
    with pytest.raises(CapError, match=r"boxes\.csv, line 2: the box has no pixel"):
        told(workspace, boxes=str(file))


def test_boxes_are_pooled_as_far_as_the_model_sees_them(workspace, monkeypatch):
    (run,) = workspace.runs("discoveries")
    ids = sorted(set(workspace.read(f"regions/{run}")["photo_id"].to_pylist()))
    file = workspace.root / "boxes.csv"
    boxes = ("0,0,8,64", "0,0,32,64", "40,0,64,64")
    lines = [f"{photo},{box}" for photo in ids[:20] for box in boxes]
    file.write_text("\n".join(["photo_id,left,top,right,bottom", *lines]))
    notes: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "note", notes.append)
    monkeypatch.setattr(OpenClipModel, "frame", lambda *_: Box(8, 0, 56, 64))
    given = {"boxes": str(file), "draws": 20, "clusters": "2-3"}
    discover(workspace, DiscoverParameters(embed="pool", **given), progress)
    assert notes[0].startswith("discover: 20 of 60 boxes are left out, since they lie outside")
    rows = workspace.read(f"regions/{run}").to_pylist()
    assert {(row["left"], row["right"]) for row in rows} == {(8, 32), (40, 56)}
    assert {row["region"] for row in rows} == {0, 1}
    monkeypatch.setattr(OpenClipModel, "frame", lambda *_: Box(64, 0, 70, 64))
    with pytest.raises(CapError, match=r"sees nothing of the 60 boxes.* use --embed crop"):
        told(workspace, precision="float32", **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 0}, "--grid is the number of rows"),
        ({"clusters": "9"}, "--clusters is FIRST-LAST"),
        ({"clusters": "9-3"}, "--clusters is FIRST-LAST"),
        ({"min_influence": 1.5}, "--min-influence is a fraction"),
        ({"draws": 0}, "--draws is a number above 0"),
        ({"model": "open_clip:ViT-B-32:openai"}, "has not been scored; run `cap score"),
    ],
)
def test_what_cannot_be_is_one_line(discovered, changes, message):
    with pytest.raises(CapError, match=message):
        told(discovered, **changes)


def test_a_run_of_other_means_names_no_model(workspace):
    (run,) = workspace.runs("discoveries")
    workspace.receipt_path(f"predictions/{run}").unlink()
    with pytest.raises(CapError, match="so that its model is not known; score"):
        told(workspace)


def test_a_model_that_has_changed_is_not_asked(workspace):
    (run,) = workspace.runs("discoveries")
    weights = workspace.root / "toy.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    spec = f"open_clip:{workspace.root / 'toy.json'}:{weights}"
    with pytest.raises(CapError, match=f"no longer the model that made {run}"):
        told(workspace, model=spec, grid=3)


def test_nothing_found_is_said_in_a_sentence(workspace):
    text, facts, _ = told(workspace, min_influence=1.0, clusters="2-3")
    assert facts["kept"] == []
    assert text.startswith("nothing found among ")
    text, facts, _ = told(workspace, clusters="9000-9001")
    assert (
        f"no number of clusters of 9000-9001 is below the {facts['regions']} regions that are "
        "clustered; give --clusters smaller ones"
    ) in text
    assert facts["clusters"] == 0
    text, _, _ = told(workspace, clusters="60-70", exact_up_to=50)
    assert "no number of clusters of 60-70 is below the 50 regions" in text


# The report


def test_the_report_tells_what_was_found(workspace):
    outcome = report(workspace, ReportParameters(), Progress())
    page = Path(outcome.facts["out"]).read_text()
    section = page.split('id="discoveries">')[1].split("</section>")[0]
    (run,) = workspace.runs("discoveries")
    rows = workspace.read(f"discoveries/{run}").to_pylist()
    kept = found_in(workspace)
    assert re.search(r'data-fact="discoveries">(\d+)<', section)[1] == str(len(kept))
    articles = section.split("<article ")[1:]
    assert len(articles) == len(kept)
    regions = {
        (r["photo_id"], r["region"]): r for r in workspace.read(f"regions/{run}").to_pylist()
    }
    for row, article in zip(kept, articles, strict=True):
        text = html.unescape(re.sub(r"<[^>]+>", " ", article)).replace("\N{MINUS SIGN}", "-")
        text = " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())
        assert f"{row['rank']}. Tied to {row['class_name']} cluster {row['cluster']}" in text
        assert f"correctly {100 * row['difference']:.1f} points more often" in text
        assert f"{row['gap']:.2f} ({row['gap_ci_low']:.2f} to {row['gap_ci_high']:.2f})" in text
        assert f"{row['regions']} regions of {row['photos']} photos are in it" in text
        largest = max(row["classes"], key=lambda c: abs(c["gap"] or 0))
        assert (
            f"{largest['class_name']} {100 * largest['accuracy_in']:.1f} % {largest['photos_in']} "
            f"{100 * largest['accuracy_out']:.1f} % {largest['photos_out']}"
        ) in text
        shown = re.findall(r'alt="photo ([^"]+)"', article)
        assert len(shown) == min(12, row["photos"])
        assert shown[0] == row["members"][0]["photo_id"]
        box = regions[shown[0], row["members"][0]["region"]]
        first = re.search(r'<i style="left:([\d.]+)%;top:([\d.]+)%;width:([\d.]+)%', article)
        assert box["left"] >= 0
        assert first is not None
    for row in rows:
        if row["rank"] is None:
            assert html.escape(row["reason"], quote=False) in section
    assert report(workspace, ReportParameters(), Progress()).fresh
    told(workspace, seed=5)
    assert not report(workspace, ReportParameters(), Progress()).fresh
