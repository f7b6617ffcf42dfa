"""CounterAnimal's own folder layout is evaluated as it is, with its quirks."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from checkpoints import tiny_clip
from conftest import save_photo
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from manifests.errors import PhotoError, ReleaseError
from manifests.photos import open_image
from manifests.progress import Progress
from manifests.schema import PREDICTIONS
from manifests.tables import read_table
from manifests.vocabulary import label_space, read_reference
from pipeline.evaluate import evaluate
from pipeline.evaluate.folder import _class_index, is_counteranimal, open_counteranimal, read_whole
from pipeline.parameters import EvaluateParameters


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two classes as CounterAnimal has them, one photo cut short, and what else lies about."""
    root = tmp_path / "LAION-final"
    groups = [
        "10 brambling/common-grass",
        "10 brambling/counter-sky",
        "305 dung beetle/common-earth",
        "305 dung beetle/counter-hand",
    ]
    for place, group in enumerate(groups):
        for number in range(3):
            save_photo(root / group / f"figure{number}.jpg", 10 * place + number)
    whole = (root / groups[0] / "figure0.jpg").read_bytes()
    (root / groups[0] / "figure0.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "imagenet_names.txt").write_text("0\ttench\n")
    (root / "10 brambling" / "notes").mkdir()
    (root / groups[1] / "Thumbs.db").write_bytes(b"no photo")
    (tmp_path / "secret.jpg").write_bytes(whole)
    (root / groups[1] / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    return root


def test_folders_tell_class_group_and_background(archive):
    photos = open_counteranimal(str(archive))
    rows = photos.rows.to_pylist()
    assert len(rows) == len(photos.photos) == 12
    found = {(r["class_index"], r["class_name"], r["group"], r["background"]) for r in rows}
    assert found == {
        (10, "brambling", "common", "grass"),
        (10, "brambling", "counter", "sky"),
        (305, "dung beetle", "common", "earth"),
        (305, "dung beetle", "counter", "human"),
    }
    for row, photo in zip(rows, photos.photos, strict=True):
        file = archive / row["photo_id"].removeprefix("folder:")
        assert row["photo_id"] == photo.photo_id
        assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_photo_that_is_cut_short_is_decoded_as_far_as_it_goes(archive):
    file = archive / "10 brambling" / "common-grass" / "figure0.jpg"
    with pytest.raises(PhotoError):
        open_image(file)
    assert open_image(read_whole(file)).size == open_image(file.with_name("figure1.jpg")).size
    whole = file.with_name("figure1.jpg")
    assert read_whole(whole) == whole.read_bytes()


def test_models_are_evaluated_on_every_photo_of_the_folder(archive, tmp_path):
    model = tiny_clip(tmp_path / "one.json", tmp_path / "one.safetensors")
    parameters = EvaluateParameters(
        release=str(archive), model=(model,), workers=0, resamples=50, cache=str(tmp_path / "cache")
    )
    outcome = evaluate(parameters, tmp_path, Progress())
    assert "on 12 photos of LAION-final, imagenet1k (1 of 1000)" in outcome.text
    (table,) = (tmp_path / "results" / "predictions").iterdir()
    predictions = read_table(table, PREDICTIONS)
    assert predictions.num_rows == 12
    assert predictions["status"].to_pylist() == ["ok"] * 12
    assert evaluate(parameters, tmp_path, Progress()).fresh


def test_older_copies_name_classes_without_an_index_and_have_backgrounds_of_their_own(tmp_path):
    save_photo(tmp_path / "ostrich" / "common-ground" / "figure1.jpeg", 1)
    save_photo(tmp_path / "ostrich" / "counter-green" / "figure1.jpeg", 2)
    rows = open_counteranimal(str(tmp_path)).rows.to_pylist()
    assert {(r["class_index"], r["background"]) for r in rows} == {(9, "ground"), (9, "green")}


def class_of(root: Path, folder: str) -> int:
    """The class that a folder stands for, which is removed again."""
    photo = root / folder / "common-grass" / "figure1.jpg"
    save_photo(photo, 1)
    try:
        (row,) = open_counteranimal(str(root)).rows.to_pylist()
    finally:
        shutil.rmtree(root / folder)
    return row["class_index"]


def test_a_number_and_a_name_of_two_classes_are_one_sentence(tmp_path):
    with pytest.raises(
        ReleaseError, match="the number of 'tench' and the name of 'polar bear', which is 296 in"
    ):
        class_of(tmp_path, "0 polar bear")
    with pytest.raises(ReleaseError, match="'10 n02134084' has the number of 'brambling'"):
        class_of(tmp_path, "10 n02134084")


@pytest.mark.parametrize(
    "folder",
    [
        "134 crane",
        "517 crane",
        "638 maillot",
        "639 maillot",
        "657 missile",
        "744 missile",
        "837 sunglasses",
        "264 Cardigan",
        "474 cardigan",
        "82 partridge",
        "86 partridge",
        "123 crayfish",
        "296 ice bear",
        "296 n02134084",
        "41 a name that nobody knows",
    ],
)
def test_a_name_that_may_mean_the_number_s_class_or_none_leaves_it_to_the_number(tmp_path, folder):
    assert class_of(tmp_path, folder) == int(folder.split()[0])


def test_no_name_of_a_class_belies_its_number():
    labels = label_space("imagenet1k")
    names = [
        *(
            (int(r["class_index"]), r["class_name"])
            for r in read_reference("counteranimal_classes")
        ),
        *enumerate(IMAGENET_CLASSNAMES),
        *(
            (i, n)
            for i in range(1000)
            for n in (labels.names[i], labels.ids[i], *labels.synonyms[i])
        ),
    ]
    assert len(names) > 45 + 3 * 1000
    for index, name in names:
        assert _class_index(f"{index} {name}", labels) == index


def test_a_folder_of_no_known_class_or_without_photos_is_one_sentence(tmp_path):
    (tmp_path / "unicorn" / "common-grass").mkdir(parents=True)
    assert is_counteranimal(tmp_path)
    with pytest.raises(ReleaseError, match="'unicorn' is no class of ImageNet-1K"):
        open_counteranimal(str(tmp_path))
    (tmp_path / "unicorn").rename(tmp_path / "9 ostrich")
    with pytest.raises(ReleaseError, match="holds no JPEG, PNG or WebP in its groups"):
        open_counteranimal(str(tmp_path))
    assert not is_counteranimal(tmp_path / "9 ostrich")
