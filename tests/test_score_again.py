"""Scoring: no photo is looked at twice, some lie at a URL, and a GPU may be too small."""

from __future__ import annotations

import math
import pickle
import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from checkpoints import tiny_clip
from conftest import cap, save_photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from manifests.errors import CapError
from manifests.photos import PhotoStore, open_upright
from manifests.progress import Progress
from manifests.vocabulary import LabelSpace
from manifests.workspace import Run, Workspace
from pipeline.collect import collect
from pipeline.dedup import dedup
from pipeline.engine import LocalEngine
from pipeline.models import ModelOptions, ModelSpec, load_model, registry
from pipeline.models.boxes import Box
from pipeline.models.cache import VectorCache, score_once
from pipeline.models.registry import file_sha256
from pipeline.models.scoring import (
    PhotoRef,
    RegionsRef,
    StoredPhotos,
    score_photos,
    score_regions,
)
from pipeline.parameters import CollectParameters, DedupParameters, ScoreParameters
from pipeline.photo_source import PhotoSource
from pipeline.score import score

ANIMALS = LabelSpace("animals", ("ant", "bee", "cat"), ("",) * 3, ((),) * 3)


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    return tiny_clip(folder / "tiny.json", folder / "tiny.safetensors")


@pytest.fixture
def collected(workspace: Workspace, animals: Path) -> Workspace:
    collect(workspace, CollectParameters(root=str(animals), workers=1), Progress())
    return workspace


def run(workspace: Workspace, spec: str, **parameters) -> pa.Table:
    options = {"save_scores": True, "device": "cpu", "workers": 0, "batch_size": 4, **parameters}
    outcome = score(workspace, ScoreParameters(model=spec, **options), Progress())
    return workspace.read(f"predictions/{outcome.facts['run']}")


def without_photos(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "photos")


def test_other_prompts_look_at_no_photo_again(collected, spec, tmp_path):
    prompts = "a drawing of a {}"
    fresh = tmp_path / "fresh"
    shutil.copytree(collected.root, fresh)
    expected = run(Workspace(fresh), spec, prompts=prompts)
    first = run(collected, spec)
    without_photos(collected)
    again = run(collected, spec, prompts=prompts)
    assert again.equals(expected)
    assert not again["scores"].equals(first["scores"])


def test_only_new_photos_are_looked_at(collected, spec, animals, tmp_path):
    run(collected, spec)
    for file in list(collected.root.glob("photos/*/*")):
        file.write_bytes(b"no photo")
    save_photo(next(animals.iterdir()) / "new.jpg", 99)
    collect(collected, CollectParameters(root=str(animals), workers=1), Progress())
    for file in collected.root.glob("photos/*/*"):
        if file.read_bytes() == b"no photo":
            file.unlink()
    table = run(collected, spec)
    assert set(table["status"].to_pylist()) == {"ok"}


def test_photos_that_came_after_dedup_are_told(collected, spec, animals):
    dedup(collected, DedupParameters(workers=1), Progress())
    save_photo(animals / "lion" / "later.jpg", 99)
    collect(collected, CollectParameters(root=str(animals), workers=1), Progress())
    with pytest.raises(CapError, match=r"^1 of 13 photos have been collected since duplicates"):
        run(collected, spec)
    dedup(collected, DedupParameters(workers=1), Progress())
    assert run(collected, spec).num_rows == 13


@pytest.mark.parametrize(("option", "least"), [("batch-size", 1), ("workers", 0)])
def test_a_number_that_cannot_be_is_refused(collected, option, least):
    done = cap("score", f"--{option}", str(least - 1), cwd=collected.root, check=False)
    assert done.returncode == 2
    assert f"{least - 1} is not in the range x>={least}" in done.stderr


def test_a_store_that_is_not_there_fails_no_photo(collected, spec):
    photos = collected.root / "photos"
    photos.rename(photos.with_name("away"))
    with pytest.raises(CapError, match=r"the photos in .* cannot be read \(No such file"):
        run(collected, spec)
    photos.with_name("away").rename(photos)
    assert set(run(collected, spec)["status"].to_pylist()) == {"ok"}


def test_a_photo_that_is_gone_or_changed_is_a_failed_row(collected, spec):
    paths = collected.read("photos")["path"].to_pylist()
    shutil.copy(collected.root / paths[3], collected.root / paths[5])
    (collected.root / paths[7]).unlink()
    errors = run(collected, spec)["error"].to_pylist()
    assert errors[5] == "the stored bytes have changed since they were collected"
    assert errors[7] == "cannot be read from the store: No such file or directory"
    assert [error for error in errors if error] == [errors[5], errors[7]]


def test_another_batch_size_goes_on_where_a_run_was_stopped(collected, spec, monkeypatch):
    whole = run(collected, spec)
    for sizes in ((2, 5), (5, 2)):
        (found,) = collected.runs()
        collected.receipt_path(f"predictions/{found}").unlink()
        collected.table_path(f"predictions/{found}").unlink()
        with monkeypatch.context() as stopped:
            stopped.setattr(Run, "save", saving_twice(Run.save))
            with pytest.raises(KeyboardInterrupt):
                run(collected, spec, batch_size=sizes[0])
        assert run(collected, spec, batch_size=sizes[1]).equals(whole)


def saving_twice(save):
    """A `save` that is interrupted at its third call."""
    calls = []

    def counted(self, index, rows):
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save(self, index, rows)

    return counted


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_copies_are_looked_at_once(model, photos, tmp_path, size):
    # The first three, of which 0 and 1 come again, and a broken one twice.
    files = [photos[n].file for n in (0, 1, 0, 7, 2, 1, 0, 7)]
    names = [file_sha256(file) for file in files]
    rows = {
        "photo_id": [f"{n}" for n in range(8)],
        "path": [f"photos/{file.name}" for file in files],
        "sha256": names,
    }
    (tmp_path / "photos").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "photos")
    refs = StoredPhotos(pa.table(rows), PhotoSource(PhotoStore(tmp_path)))
    looked = []

    def score(few):
        looked.extend(photo.photo_id for photo in few)
        return score_photos(model, few, batch_size=2)

    cache = VectorCache(tmp_path / "vectors", model)
    cache.add([names[4]], np.ones((1, model.embedding_dim), np.float32))
    batches = [range(start, min(start + size, 8)) for start in range(0, 8, size)]
    results = [one for batch in score_once(model, refs, batches, cache, score) for one in batch]
    assert looked == ["0", "1", "3"]
    assert [result.photo_id for result in results] == rows["photo_id"]
    for name, result in zip(names, results, strict=True):
        first = results[names.index(name)]
        assert result.error == first.error
        assert (result.error is not None) == (name == names[3])
        np.testing.assert_array_equal(result.scores, first.scores)


@given(
    count=st.integers(0, 12),
    start=st.integers(-14, 14) | st.none(),
    stop=st.integers(-14, 14) | st.none(),
    step=st.sampled_from([None, 1, 2, -1]),
)
def test_stored_photos_are_a_sequence(count, start, stop, step):
    numbers = [f"{n}" for n in range(count)]
    column = pa.array(numbers, pa.string())
    rows = pa.table({"photo_id": column, "path": column, "sha256": column})
    refs = StoredPhotos(rows, PhotoSource(PhotoStore(Path("nowhere"))))
    every = list(refs)
    assert [ref.photo_id for ref in every] == numbers
    assert len(refs) == count
    assert [refs[n] for n in range(-count, count)] == 2 * every
    assert list(refs[start:stop:step]) == every[start:stop:step]
    sent = pickle.loads(pickle.dumps(refs))
    assert [ref.photo_id for ref in sent] == numbers
    with pytest.raises(IndexError):
        refs[count]


def test_a_classifier_is_asked_again_where_its_embeddings_are_wanted(collected):
    from conftest import weights

    classifier = f"timm:tf_efficientnet_lite0:{weights()}"
    options = {"label_space": "imagenet1k", "batch_size": 64}
    kept = run(collected, classifier, **options)
    with_embeddings = run(collected, classifier, save_embeddings=True, **options)
    assert with_embeddings["scores"].equals(kept["scores"])
    assert with_embeddings["embedding"].null_count == 0
    without_photos(collected)
    assert run(collected, classifier, **options)["scores"].equals(kept["scores"])


def upload(s3, workspace: Workspace) -> list[str]:
    """Put the photos into a bucket; their keys."""
    s3.create_bucket(Bucket="animals", ACL="public-read-write")
    files = sorted(workspace.root.glob("photos/*/*"))
    keys = [str(file.relative_to(workspace.root / "photos")) for file in files]
    for file, key in zip(files, keys, strict=True):
        s3.upload_file(str(file), "animals", f"all/{key}", ExtraArgs={"ACL": "public-read"})
    return keys


def test_photos_are_read_from_a_copy_in_a_bucket(collected, spec, s3, monkeypatch, tmp_path):
    for name, value in (("ACCESS_KEY_ID", "reader"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    fresh = tmp_path / "fresh"
    shutil.copytree(collected.root, fresh)
    local = Workspace(fresh)
    dedup(local, DedupParameters(workers=1), Progress())
    expected = run(local, spec, batch_size=1)

    gone, changed = upload(s3, collected)[:2]
    without_photos(collected)
    (collected.root / "photos").mkdir()
    place = "s3://animals/all"
    dedup(collected, DedupParameters(workers=1, photos_at=place), Progress())
    assert collected.read("duplicates").equals(local.read("duplicates"))

    s3.delete_object(Bucket="animals", Key=f"all/{gone}")
    s3.put_object(Bucket="animals", Key=f"all/{changed}", Body=b"no photo")
    with pytest.raises(CapError, match=f"^{gone} is not among the photos at {place}; copy"):
        run(collected, spec, photos_at=place, batch_size=1)
    s3.upload_file(
        str(local.root / "photos" / gone), "animals", f"all/{gone}", {"ACL": "public-read"}
    )
    found = run(collected, spec, photos_at=place, batch_size=1)
    failed = found.filter(pa.compute.equal(found["status"], "failed"))
    assert failed["error"].to_pylist() == [
        "has other bytes at s3://animals/all than when it was collected"
    ]
    rest = expected.filter(
        pa.compute.invert(pa.compute.is_in(expected["photo_id"], failed["photo_id"]))
    )
    assert found.filter(pa.compute.equal(found["status"], "ok")).equals(rest)


def test_photos_are_read_from_a_copy_in_a_folder(collected, spec, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(collected.root / "photos", copy)
    without_photos(collected)
    (collected.root / "photos").mkdir()
    done = cap(
        *("score", "--model", spec, "--photos-at", "../copy", "--device", "cpu"),
        cwd=collected.root,
    )
    assert "failed" not in done.stdout


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_does_not_answer_fails_no_photo(collected, spec, workers):
    place = "http://127.0.0.1:1/x"
    with pytest.raises(CapError, match=r"photos at http://127.0.0.1:1/x cannot be read .*goes on"):
        run(collected, spec, photos_at=place, workers=workers, batch_size=1)
    assert not collected.runs()


class SmallGpu:
    """A model on a GPU whose memory takes three images, or as many as are said."""

    def __init__(self, model, most: int = 3) -> None:
        self._model = model
        self._most = most
        self.batches: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def _take(self, batch: torch.Tensor) -> None:
        if len(batch) > self._most:
            msg = "CUDA out of memory."
            raise torch.cuda.OutOfMemoryError(msg)
        self.batches.append(len(batch))

    def score(self, batch: torch.Tensor):
        self._take(batch)
        return self._model.score(batch)

    def score_regions(self, batch: torch.Tensor, boxes):
        self._take(batch)
        return self._model.score_regions(batch, boxes)


@pytest.fixture
def model(spec):
    return load_model(ModelSpec.parse(spec), ANIMALS, ModelOptions(device="cpu"))


@pytest.fixture
def photos(tmp_path) -> list[PhotoRef]:
    refs = [PhotoRef(str(n), save_photo(tmp_path / f"{n}.jpg", n)) for n in range(20)]
    refs[7].file.write_bytes(b"no photo")
    return refs


def test_a_gpu_without_memory_gets_half_the_batch(model, photos):
    told: list[str] = []
    small = SmallGpu(model)
    engine = LocalEngine(0, tell=told.append)
    rows = [r for b in score_photos(small, photos, batch_size=16, engine=engine) for r in b]
    assert [row.photo_id for row in rows] == [photo.photo_id for photo in photos]
    assert [row.error is None for row in rows] == [n != 7 for n in range(20)]
    assert sum(small.batches) == 19
    assert max(small.batches) == 3
    assert told == [
        "the GPU ran out of memory with 15 at once; going on with 7",
        "the GPU ran out of memory with 7 at once; going on with 3",
    ]
    for row, other in zip(
        rows, [r for b in score_photos(model, photos, batch_size=3) for r in b], strict=True
    ):
        assert (row.scores is None) == (other.scores is None)
        if row.scores is not None:
            assert abs(row.scores - other.scores).max() < 1e-6


@pytest.mark.parametrize("pooled", [True, False])
def test_a_gpu_without_memory_gets_fewer_regions(model, photos, pooled):
    boxes = (Box(0, 0, 48, 72), Box(48, 0, 96, 72))
    refs = [RegionsRef(photo.photo_id, photo.file, (96, 72), boxes) for photo in photos]
    small = SmallGpu(model)
    found, expected = (
        [
            row
            for batch in score_regions(
                one, refs, pooled=pooled, batch_size=8, engine=LocalEngine(0)
            )
            for row in batch
        ]
        for one in (small, model)
    )
    assert max(small.batches) <= 3
    assert [row.photo_id for row in found] == [photo.photo_id for photo in photos]
    for row, other in zip(found, expected, strict=True):
        if other.scores is None:
            assert row.error == other.error
        else:
            assert abs(row.scores - other.scores).max() < 1e-6


def test_a_gpu_too_small_for_the_model_is_an_error(spec, monkeypatch):
    def full(*arguments):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setitem(registry._LOADERS, "open_clip", full)
    with pytest.raises(CapError, match=f"the GPU has no memory for {re.escape(spec)}; "):
        load_model(ModelSpec.parse(spec), ANIMALS, ModelOptions(device="cpu"))


def test_a_gpu_too_small_for_one_photo_is_an_error(model, photos):
    small = SmallGpu(model, most=0)
    with pytest.raises(CapError, match="no memory for a single photo; try --device cpu"):
        list(score_photos(small, photos, batch_size=4, engine=LocalEngine(0)))


@given(
    st.integers(1, 900), st.integers(1, 900), st.integers(1, 400), st.sampled_from(["JPEG", "PNG"])
)
def test_a_reduced_photo_keeps_what_is_asked_for_and_its_shape(width, height, smallest, kind):
    file = BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, kind)
    image = open_upright(file.getvalue(), smallest=smallest)
    assert min(image.size) >= min(smallest, width, height)
    assert image.mode == "RGB"
    eighths = [(math.ceil(width * n / 8), math.ceil(height * n / 8)) for n in range(1, 9)]
    assert image.size in eighths
    if kind == "PNG":
        assert image.size == (width, height)


def test_a_large_photo_is_reduced_on_the_way_in(tmp_path):
    file = save_photo(tmp_path / "large.jpg", 1, (1600, 1200))
    assert open_upright(file, smallest=448).size == (600, 450)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(file).save(turned, exif=exif)
    assert open_upright(turned, smallest=448).size == (600, 800)


def test_reduced_decoding_hardly_moves_scores_and_has_a_run_of_its_own(collected, spec, animals):
    large = save_photo(next(animals.iterdir()) / "large.jpg", 5, (1600, 1200))
    collect(collected, CollectParameters(root=str(animals), workers=1), Progress())
    full = run(collected, spec)
    reduced = run(collected, spec, decode="reduced")
    assert len(collected.runs()) == 2
    for one, other in zip(full["scores"].to_pylist(), reduced["scores"].to_pylist(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)
    (row,) = [n for n, name in enumerate(full["photo_id"].to_pylist()) if large.name in name]
    assert full["scores"][row] != reduced["scores"][row]


def test_photos_that_were_collected_over_another_label_space_are_not_judged(
    workspace, spec, animals
):
    space = workspace.root / "space.csv"
    (workspace.root / "cap.toml").write_text('label_space = "space.csv"\n')

    def over(*names: str) -> Workspace:
        space.write_text("\n".join(["name", *names]))
        return Workspace(workspace.root)

    first = over("ice bear", "lion", "otter")
    collect(first, CollectParameters(root=str(animals), workers=1), Progress())
    run(first, spec)
    refused = (
        r"^the photos were collected over another label space: class 1 is called 'lion' there, "
        r"and not so in .*; run `cap collect` again$"
    )
    with pytest.raises(CapError, match=refused):
        run(over("ice bear", "ibex", "lion", "otter"), spec)
    with pytest.raises(CapError, match=refused):
        run(over("ice bear"), spec)
    with pytest.raises(CapError, match=refused):
        run(over("ice bear", "gnu", "otter"), spec)
    # The same class, spelled otherwise.
    assert run(over("Ice_Bear", "LION", "otter"), spec)["target_rank"].null_count == 0
    # Of a table from elsewhere, a name that is not known here may be the class's.
    first.receipt_path("photos").unlink()
    assert run(over("ice bear", "gnu", "otter"), spec)["target_rank"].null_count == 0
    longer = over("ice bear", "lion", "otter", "ibex")
    assert run(longer, spec)["target_rank"].null_count == 0
    assert run(over("zebra"), spec, label_space="backgrounds")["correct"].null_count == 12
