"""Regions: where they lie, what a model sees of a photo, and how parts of a photo are encoded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
import torch
from checkpoints import tiny_clip
from conftest import save_photo, weights
from hypothesis import given
from PIL import Image

from annotation.photo_rows import PhotoRows
from manifests.errors import CapError
from manifests.vocabulary import LabelSpace, label_space
from pipeline.discover.regions import boxes_from, grid_boxes, read_boxes, seen_boxes
from pipeline.engine import LocalEngine
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.boxes import Box
from pipeline.models.scoring import RegionsRef, score_regions

ANIMALS = LabelSpace("animals", ("ant", "bee", "cat", "dog"), ("",) * 4, ((),) * 4)
WHOLE = Box(0, 0, 1, 1)
RESNET = {
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
}
VIT = {
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16},
}


def clip(folder: Path, changes: dict, labels: LabelSpace = ANIMALS):
    # open_clip knows an architecture by its file's name, for as long as the process runs.
    name = hashlib.sha256(repr(changes).encode()).hexdigest()[:8]
    spec = tiny_clip(folder / f"{name}.json", folder / f"{name}.safetensors", **changes)
    return load_model(ModelSpec.parse(spec), labels, ModelOptions(device="cpu"))


@pytest.fixture(scope="module", params=[RESNET, VIT], ids=["resnet", "vit"])
def model(request, tmp_path_factory):
    return clip(tmp_path_factory.mktemp("tower"), request.param)


def images(model, count: int = 2) -> torch.Tensor:
    size = model.description["configuration"]["vision_cfg"]["image_size"]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@given(
    st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 5), st.sampled_from([0.0, 1.0, 0.3])
)
def test_a_grid_covers_its_part_once(width, height, side, margin):
    part = Box(margin * width / 3, margin * height / 4, width - margin, height - margin)
    part = part.clipped(width, height)
    tiles = part.grid(side)
    assert len(tiles) <= side * side
    assert all(not tile.empty and tile == tile.clipped(width, height) for tile in tiles)
    covered = sum((t.right - t.left) * (t.bottom - t.top) for t in tiles)
    edges = [round(edge) for edge in part]
    assert covered == (edges[2] - edges[0]) * (edges[3] - edges[1])


def test_quadrants_of_a_square():
    assert Box(0, 0, 56, 56).grid(2) == [
        (0, 0, 28, 28),
        (28, 0, 56, 28),
        (0, 28, 28, 56),
        (28, 28, 56, 56),
    ]


@pytest.mark.parametrize("size", [(120, 80), (80, 120), (64, 64)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_what_lies_outside_of_the_frame_is_not_seen(tmp_path, size, mode):
    model = clip(tmp_path, VIT)
    config = {**model.description["preprocessing"], "resize_mode": mode}
    model = type(model)(
        ModelSpec.parse(model.name),
        _with_preprocessing(model, config),
        model.head,
        model.description,
    )
    frame = model.frame(*size)
    box = frame.clipped(*size)
    assert (frame == box) == (mode != "longest" or size[0] == size[1])
    grey = Image.new("RGB", size, "grey")
    other = Image.new("RGB", size, "red")
    # Resizing looks a few pixels further than the edge.
    inner = tuple(round(edge + d) for edge, d in zip(box, (-4, -4, 4, 4), strict=True))
    other.paste(Image.new("RGB", (inner[2] - inner[0], inner[3] - inner[1]), "grey"), inner[:2])
    seen, unseen = model.preprocess(grey), model.preprocess(other)
    assert torch.equal(seen, unseen)
    middle = tuple(round(edge + d) for edge, d in zip(box, (2, 2, -2, -2), strict=True))
    edged = Image.new("RGB", size, "red")
    edged.paste(
        Image.new("RGB", (middle[2] - middle[0], middle[3] - middle[1]), "grey"), middle[:2]
    )
    assert not torch.equal(seen, model.preprocess(edged))


def _with_preprocessing(model, config):
    network = model._network
    network.visual.preprocess_cfg = config
    return network


def test_the_frame_of_a_classifier_is_the_middle_that_it_crops():
    spec = ModelSpec.parse(f"timm:tf_efficientnet_lite0:{weights()}")
    model = load_model(spec, label_space("imagenet1k"), ModelOptions(device="cpu"))
    left, top, right, bottom = model.frame(400, 300)
    assert (right - left, bottom - top) == pytest.approx((300 * 0.875, 300 * 0.875))
    assert (left + right, top + bottom) == pytest.approx((400, 300))
    with pytest.raises(CapError, match="use --embed crop"):
        model.score_regions(torch.zeros(1, 3, 224, 224), [[WHOLE]])


def test_a_part_that_is_the_whole_image_has_the_images_own_features(model):
    batch = images(model)
    scores, embeddings = model.score(batch)
    pooled_scores, pooled = model.score_regions(batch, [[WHOLE], [WHOLE]])
    assert pooled == pytest.approx(embeddings, abs=1e-5)
    assert pooled_scores == pytest.approx(scores, abs=1e-5)


def test_a_part_does_not_depend_on_which_other_parts_are_asked_for(model):
    batch = images(model)
    quadrants = [Box(x, y, x + 0.5, y + 0.5) for y in (0, 0.5) for x in (0, 0.5)]
    _, every = model.score_regions(batch, [quadrants, [WHOLE, *quadrants[:1]]])
    assert every.shape == (6, 16)
    for number, box in enumerate(quadrants):
        _, (alone,) = model.score_regions(batch[:1], [[box]])
        assert alone == pytest.approx(every[number], abs=1e-5)
    assert len(np.unique(every.round(4), axis=0)) == 6
    assert np.linalg.norm(every, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_transformers_part_attends_to_its_own_patches(tmp_path):
    model = clip(tmp_path, {"vision_cfg": {**VIT["vision_cfg"], "layers": 1}})
    batch = images(model, 1)
    changed = batch.clone()
    changed[..., 16:] += 1
    left, right = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
    _, before = model.score_regions(batch, [[left, right]])
    _, after = model.score_regions(changed, [[left, right]])
    # With a single layer nothing else can reach the part's token.
    assert after[0] == pytest.approx(before[0], abs=1e-6)
    assert after[1] != pytest.approx(before[1], abs=1e-3)


def test_a_part_smaller_than_a_patch_is_its_nearest_patch(tmp_path):
    model = clip(tmp_path, VIT)
    batch = images(model, 1)
    tiny, patch = Box(0.26, 0.01, 0.27, 0.02), Box(0.25, 0, 0.5, 0.25)
    _, (one, other) = model.score_regions(batch, [[tiny, patch]])
    assert one == pytest.approx(other, abs=1e-6)


def test_a_tower_that_nobody_has_taught_to_pool_says_so(tmp_path):
    model = clip(tmp_path, {"vision_cfg": {**VIT["vision_cfg"], "pool_type": "avg"}})
    with pytest.raises(CapError, match=r"VisionTransformer with a class token.*use --embed crop"):
        model.score_regions(images(model), [[WHOLE], [WHOLE]])


def test_cut_out_regions_are_scored_as_photos_of_their_own(model, tmp_path):
    file = save_photo(tmp_path / "a.png", 1, size=(96, 72))
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no photo")
    boxes = tuple(Box(0, 0, 96, 72).grid(2))
    refs = [
        RegionsRef("a", file, (96, 72), boxes),
        RegionsRef("b", broken, (96, 72), boxes),
        RegionsRef("c", file, (96, 72), boxes[:1]),
    ]
    found = [
        row
        for batch in score_regions(model, refs, pooled=False, batch_size=3, engine=LocalEngine(0))
        for row in batch
    ]
    with Image.open(file) as image:
        parts = torch.stack([model.preprocess(image.convert("RGB").crop(box)) for box in boxes])
    scores, embeddings = model.score(parts)
    assert [row.photo_id for row in found] == ["a", "b", "c"]
    assert found[0].scores == pytest.approx(scores, abs=1e-5)
    assert found[0].embeddings == pytest.approx(embeddings, abs=1e-5)
    assert found[1].scores is None
    assert "not an image" in found[1].error
    assert found[2].embeddings == pytest.approx(embeddings[:1], abs=1e-5)


def test_pooled_regions_lie_where_the_model_sees_them(model, tmp_path):
    file = save_photo(tmp_path / "a.png", 1, size=(96, 72))
    frame = model.frame(96, 72)
    refs = [RegionsRef("a", file, (96, 72), (frame, *frame.grid(2)))]
    ((found,),) = score_regions(model, refs, pooled=True, batch_size=3, engine=LocalEngine(0))
    with Image.open(file) as image:
        seen = model.preprocess(image.convert("RGB"))[None]
    _, whole = model.score(seen)
    assert found.embeddings[:1] == pytest.approx(whole, abs=1e-5)
    assert len(found.embeddings) == 5


# Boxes from a file

PHOTOS = pa.table(
    {"photo_id": ["folder:a.jpg", "folder:b.jpg"], "width": [100, 50], "height": [80, 60]}
)


def rows(*lines: str) -> PhotoRows:
    names = ("photo_id", "left", "top", "right", "bottom")
    cells = [dict(zip(names, line.split(","), strict=True)) for line in lines]
    return PhotoRows("boxes.csv", tuple(enumerate(cells, start=2)))


def test_boxes_are_cut_to_their_photo_in_whole_pixels():
    found = boxes_from(
        rows("folder:a.jpg,10.4,-5,60,30", "folder:a.jpg,90,70,1e6,200", "folder:other,0,0,9,9"),
        PHOTOS,
    )
    assert found == {"folder:a.jpg": ((10, 0, 60, 30), (90, 70, 100, 80))}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("folder:b.jpg,50,0,80,20", "line 2: the box has no pixel of folder:b.jpg, which is 50"),
        ("folder:b.jpg,-9,0,0,20", "line 2: the box has no pixel"),
        ("folder:b.jpg,20,20,10,30", "line 2: the box has no pixel"),
        ("folder:b.jpg,left,0,80,20", "line 2: the edges of a box are pixels, not left 'left'"),
        ("folder:b.jpg,nan,0,80,20", "line 2: the edges of a box are pixels"),
        ("folder:b.jpg,0,0,inf,20", "line 2: the edges of a box are pixels"),
        ("folder:c.jpg,0,0,10,20", "has boxes of none of the scored photos"),
    ],
)
def test_a_box_that_cannot_be_is_one_line(line, message):
    with pytest.raises(CapError, match=message):
        boxes_from(rows(line), PHOTOS)


def test_a_file_of_boxes_names_photos_and_edges(tmp_path):
    file = tmp_path / "boxes.csv"
    file.write_text("path,left,top,right,bottom\na.jpg,0,0,10,10\n")
    assert boxes_from(read_boxes(file), PHOTOS.append_column("path", pa.array(["x", "y"]))) == {
        "folder:a.jpg": ((0, 0, 10, 10),)
    }
    file.write_text("path,left,top\na.jpg,0,0\n")
    with pytest.raises(CapError, match="needs columns 'left', 'top', 'right', 'bottom' and one"):
        read_boxes(file)
    with pytest.raises(CapError, match="there is no boxes file"):
        read_boxes(tmp_path / "nowhere.csv")


def test_a_photo_of_which_less_than_a_pixel_is_seen_has_no_regions():
    photos = [{"photo_id": "line", "width": 1000, "height": 1}]
    assert grid_boxes(photos, lambda width, height: Box(499.5, 0, 500.5, 1), 2) == {}


def test_a_grid_lies_within_the_photo_where_the_frame_is_larger():
    photos = [{"photo_id": "a", "width": 40, "height": 20}]
    found = grid_boxes(photos, lambda width, height: Box(0, -10, width, height + 10), 2)
    assert found["a"][0] == (0, 0, 20, 10)
    assert found["a"][-1] == (20, 10, 40, 20)


def test_boxes_are_cut_to_what_the_model_sees_of_a_photo():
    photos = [{"photo_id": name, "width": 100, "height": 60} for name in "abc"]
    boxes = {
        "a": (Box(0, 0, 20, 60), Box(10, 5, 40, 50), Box(30, 0, 60, 70)),
        "b": (Box(80, 0, 100, 60), Box(0, 0, 20.4, 9)),
    }
    found = seen_boxes(boxes, photos, lambda width, height: Box(20, -3, 80, height + 3))
    assert found == {"a": ((20, 5, 40, 50), (30, 0, 60, 60))}
