"""Bursts and crops by a model's embeddings: exact, explained, and settled after one more score."""

from __future__ import annotations

import csv
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from checkpoints import tiny_clip
from conftest import cap, weights
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manifests.kept import kept_photos
from manifests.progress import Progress
from manifests.schema import PREDICTIONS
from manifests.tables import from_rows
from manifests.workspace import Job, Outcome, Workspace
from pipeline.collect import collect
from pipeline.dedup import dedup, similarity
from pipeline.dedup.groups import choose_keepers
from pipeline.dedup.linking import link_hashes
from pipeline.dedup.similarity import Embeddings, alike
from pipeline.parameters import CollectParameters, DedupParameters

RUN = "model-01234567"


def embeddings(vectors: np.ndarray) -> Embeddings:
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    contents = [f"{index:064x}" for index in range(len(unit))]
    return Embeddings(RUN, "model", pa.array(contents, pa.string()), unit)


VECTORS = (
    st.integers(1, 12)
    .flatmap(lambda count: arrays(np.float64, (count, 4), elements=st.integers(-3, 3)))
    .filter(lambda vectors: bool(np.linalg.norm(vectors, axis=1).all()))
)


@given(VECTORS, st.sampled_from([0.3, 0.65, 0.9, 0.99]))
def test_alike_contents_are_those_of_comparing_all(vectors, least):
    given_ = embeddings(vectors)
    unit = given_.vectors.astype(np.float64)
    cosines = unit @ unit.T
    found = alike(given_, least)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert len(pairs) == len(found.first)
    for first in range(len(unit)):
        for second in range(first + 1, len(unit)):
            # Sums of float64 in another order may differ in the last digit.
            if abs(cosines[first, second] - least) > 1e-12:
                assert ((first, second) in pairs) == (cosines[first, second] >= least)
    assert found.recall is None


def test_an_index_finds_nearly_all_of_many_and_says_how_many():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1_500, 32))
    vectors = np.concatenate([centres, centres + 0.1 * rng.normal(size=centres.shape)])
    exact = alike(embeddings(vectors), 0.9)
    found = alike(embeddings(vectors), 0.9, exact_up_to=1_000)
    assert len(exact.first) >= 1_500
    every = set(zip(exact.first.tolist(), exact.second.tolist(), strict=True))
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs <= every
    assert len(pairs) > 0.9 * len(every)
    assert found.recall == pytest.approx(len(pairs) / len(every), abs=0.05)


# A few hashes along a line, and a few directions: links of both kinds, and chains of both.
PLACE = st.tuples(st.integers(0, 6), st.none() | st.integers(0, 11))


@given(st.lists(PLACE, min_size=1, max_size=14))
def test_groups_are_joined_by_hashes_and_embeddings_alike(places):
    hashes = np.array([(1 << 5 * ones) - 1 for ones, _ in places], dtype=np.uint64)
    seen = [number for number, (_, turn) in enumerate(places) if turn is not None]
    turns = np.array([places[number][1] for number in seen], dtype=np.float64) * np.pi / 6
    contents = pa.array([f"content {number:02d}" for number in range(len(places))], pa.string())
    unit = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    found = alike(Embeddings(RUN, "model", contents.take(pa.array(seen, pa.int64())), unit), 0.85)
    photos = pa.table(
        {
            "photo_id": [f"{number:02d}" for number in range(len(places))],
            "sha256": contents,
            "width": [4] * len(places),
            "height": [3] * len(places),
            "license": ["cc0"] * len(places),
            "observed_at": pa.nulls(len(places), pa.timestamp("us", "UTC")),
            "phash": hashes,
        }
    )
    chosen = choose_keepers(photos, link_hashes(hashes, 6), alike=found).to_pylist()

    def linked(one: int, other: int) -> bool:
        turned = [places[number][1] for number in (one, other)]
        apart = None if None in turned else (turned[0] - turned[1]) % 12
        return abs(places[one][0] - places[other][0]) <= 1 or apart in {0, 1, 11}

    groups: list[list[int]] = []
    for number in range(len(places)):
        near = [group for group in groups if any(linked(number, other) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for group in near for other in group), number])
    # All else is equal, so that the first of each group is its keeper.
    keepers = {number: min(group) for group in groups for number in group}
    assert [int(row["keeper"]) for row in chosen] == [keepers[n] for n in range(len(places))]
    for number, row in enumerate(chosen):
        turned = (places[number][1], places[keepers[number]][1])
        near = row["relation"] == "near" and None not in turned
        links = near and (turned[0] - turned[1]) % 12 in {0, 1, 11}
        assert (row["similarity"] is not None) == links


def score(workspace: Workspace, vectors: dict[str, list[float]], **changes) -> None:
    """What `cap score --save-embeddings` writes, with these embeddings of the kept photos."""
    photos, inputs = kept_photos(workspace)
    rows = [
        {"photo_id": name, "status": "ok", "label_space": "imagenet1k", "embedding": vectors[name]}
        for name in photos["photo_id"].to_pylist()
    ]
    fields = [f for f in PREDICTIONS.schema if f.name not in PREDICTIONS.optional]
    fields.append(PREDICTIONS.schema.field("embedding").with_type(pa.list_(pa.float16(), 3)))
    parameters = {"model": "timm:model", "digest": "d", "precision": "float32", **changes}
    model = {"label_space": "imagenet1k"}
    job = Job(f"predictions/{RUN}", "score", parameters, inputs, model=model)
    run = workspace.begin(job)
    if not run.fresh:
        run.commit(from_rows(rows, pa.schema(fields)))


def find(workspace: Workspace, run: str | None = RUN, **parameters) -> Outcome:
    return dedup(workspace, DedupParameters(workers=1, embeddings=run, **parameters), Progress())


@pytest.fixture
def scored(workspace, animals) -> tuple[Workspace, dict[str, list[float]]]:
    """Twelve photos, of which a model finds the lions 0 to 2 alike."""
    collect(workspace, CollectParameters(root=str(animals), workers=1), Progress())
    rng = np.random.default_rng(0)
    names = workspace.read("photos")["photo_id"].to_pylist()
    vectors = {}
    for axis, name in enumerate(names):
        angle = 2 * np.pi * axis / len(names)
        vectors[name] = [np.cos(angle), np.sin(angle), 0.0]
    for number in range(3):
        near = np.array([0, 0, 1]) + 0.05 * rng.normal(size=3)
        vectors[f"folder:lion/{number}.jpg"] = list(near / np.linalg.norm(near))
    find(workspace, None)
    score(workspace, vectors)
    return workspace, vectors


def test_photos_that_a_model_finds_alike_are_near_duplicates_and_the_reason_says_it(scored):
    workspace, _ = scored
    assert "similarity" not in workspace.read("duplicates").column_names
    outcome = find(workspace)
    assert outcome.facts["near"] == 2
    rows = {row["photo_id"]: row for row in workspace.read("duplicates").to_pylist()}
    keeper, near, lone = (rows[f"folder:lion/{n}.jpg"] for n in (0, 1, 3))
    assert (keeper["relation"], keeper["similarity"]) == ("keeper", None)
    assert (near["relation"], near["keeper"]) == ("near", "folder:lion/0.jpg")
    assert near["similarity"] > 0.9
    assert near["distance"] > 6
    assert near["reason"] == (
        f"cosine {near['similarity']:.3f} to the keeper in the embeddings of {RUN}, "
        "which comes first by id"
    )
    assert lone["relation"] == "unique"
    assert lone["reason"] == (
        "no other photo has the same bytes, none within 6 bits, none with a cosine of 0.9 in the "
        f"embeddings of {RUN}"
    )
    assert "near" not in find(workspace, similarity=1.0).facts


def test_after_one_more_score_all_is_fresh_and_what_was_removed_stays_so(scored):
    workspace, vectors = scored
    find(workspace)
    found = workspace.digest("duplicates")
    score(workspace, vectors)
    assert workspace.read(f"predictions/{RUN}").num_rows == 10
    again = find(workspace)
    assert again.fresh
    assert again.facts["without_embedding"] == 0
    # Another threshold and back: those removed are compared although the run has them no more.
    assert not find(workspace, similarity=0.99999).fresh
    assert not find(workspace).fresh
    assert workspace.digest("duplicates") == found


def test_photos_that_came_later_are_compared_once_they_are_scored(scored, animals):
    from conftest import save_photo

    workspace, vectors = scored
    find(workspace)
    score(workspace, vectors)
    save_photo(animals / "lion" / "late.jpg", seed=77)
    collect(workspace, CollectParameters(root=str(animals), workers=1), Progress())
    vectors["folder:lion/late.jpg"] = vectors["folder:lion/3.jpg"]
    before = find(workspace)
    assert before.facts["near"] == 2
    assert before.facts["without_embedding"] == 1
    known = workspace.cache / "dedup" / f"embeddings-{RUN}.parquet"
    kept = known.read_bytes()
    known.unlink()
    # The run is of other photos, and nothing else tells what it made of these.
    lost = find(workspace)
    assert "near" not in lost.facts
    assert lost.facts["without_embedding"] == 13
    known.write_bytes(kept)
    assert find(workspace).facts == before.facts
    assert "1 of those kept have no embedding yet" in before.text
    score(workspace, vectors)
    after = find(workspace)
    assert after.facts["near"] == 3
    assert after.facts["without_embedding"] == 0


def test_an_index_for_many_photos_tells_how_much_it_finds(scored, monkeypatch):
    workspace, _ = scored
    notes = []
    progress = Progress()
    monkeypatch.setattr(progress, "note", notes.append)
    monkeypatch.setattr(similarity, "alike", partial(alike, exact_up_to=5))
    dedup(workspace, DedupParameters(workers=1, embeddings=RUN), progress)
    assert notes == ["embeddings: an index finds 100.0% of the near pairs"]


def test_what_cannot_be_compared_is_one_sentence(workspace, animals, tmp_path):
    root = workspace.root
    cap("collect", "--root", animals, cwd=root)
    nothing = cap("dedup", "--embeddings", "none", cwd=root, check=False)
    assert nothing.returncode == 1
    assert "there is no run none; run dedup without, then `cap score` makes one" in nothing.stderr
    spec = tiny_clip(tmp_path / "tiny.json", tmp_path / "tiny.safetensors")
    cap("score", "--model", spec, cwd=root)
    (run,) = workspace.runs()
    other = cap("dedup", "--embeddings", "none", cwd=root, check=False)
    assert f"there is no run none; name one of: {run}" in other.stderr
    bare = cap("dedup", "--embeddings", run, cwd=root, check=False)
    assert f"run `cap score --model {spec} --save-embeddings`, then this again" in bare.stderr
    wrong = cap("dedup", "--embeddings", run, "--similarity", "1.5", cwd=root, check=False)
    assert "a similarity of 1.5 makes no sense for near photos" in wrong.stderr


def test_the_commands_settle_with_a_real_checkpoint(workspace, animals, tmp_path):
    root = workspace.root
    spec = tiny_clip(tmp_path / "tiny.json", tmp_path / "tiny.safetensors")
    scoring = ("score", "--model", spec, "--save-embeddings")
    cap("collect", "--root", animals, cwd=root)
    cap("dedup", cwd=root)
    cap(*scoring, cwd=root)
    (run,) = workspace.runs()
    vectors = np.array(workspace.read(f"predictions/{run}")["embedding"].to_pylist(), np.float64)
    largest = np.sort((vectors @ vectors.T)[np.triu_indices(12, 1)])[-2:]
    second = ("dedup", "--embeddings", run, "--similarity", str(largest.mean()))
    assert "0 exact and 1 near duplicates" in cap(*second, cwd=root).stdout
    assert "11 photos as" in cap(*scoring, cwd=root).stdout
    assert "(up to date, skipped)" in cap(*second, cwd=root).stdout
    assert "(up to date, skipped)" in cap(*scoring, cwd=root).stdout
    states = cap("status", "--json", cwd=root).stdout
    assert "stale" not in states
    receipt = workspace.receipt("duplicates")
    assert receipt.versions["faiss-cpu"]
    assert receipt.parameters["embeddings"] == run


def test_real_crops_that_hashes_miss_are_found(shared, tmp_path):
    (tmp_path / "cap.toml").write_text("")
    workspace = Workspace(tmp_path)
    classes = "scorpion,flamingo"
    cap("collect", "--root", shared / "photos", "--classes", classes, cwd=tmp_path)
    cap("dedup", cwd=tmp_path)
    hashes = workspace.read("duplicates")["relation"].to_pylist()
    model = f"timm:tf_efficientnet_lite0:{weights()}"
    cap("score", "--model", model, "--save-embeddings", cwd=tmp_path)
    (run,) = workspace.runs()
    cap("dedup", "--embeddings", run, "--similarity", "0.88", cwd=tmp_path)
    rows = {row["photo_id"]: row for row in workspace.read("duplicates").to_pylist()}
    with (shared / "duplicates.tsv").open(encoding="utf-8") as handle:
        crops = [
            row
            for row in csv.DictReader(handle, delimiter="\t")
            if row["kind"] == "crop_by_eye" and row["file_a"].split("/")[0] in classes
        ]
    assert len(crops) == 4
    for crop in crops:
        first, second = (rows[f"folder:{crop[side]}"] for side in ("file_a", "file_b"))
        assert first["keeper"] == second["keeper"]
    named = {f"folder:{crop[side]}" for crop in crops for side in ("file_a", "file_b")}
    linked = {name for name, row in rows.items() if row["relation"] in {"keeper", "near"}}
    assert linked == named
    assert set(hashes) == {"unique"}
