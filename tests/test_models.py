"""Models: what a SPEC means, what is refused, and that scores depend on the model alone."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import open_clip
import pytest
import timm
import torch
from checkpoints import tiny_clip
from conftest import save_photo
from hypothesis import given, settings
from PIL import Image
from safetensors.torch import load_file, save_file

from manifests.errors import CapError, PhotoError
from manifests.photos import open_image
from manifests.vocabulary import LabelSpace, label_space
from pipeline.engine import LocalEngine
from pipeline.models import ModelOptions, ModelSpec, load_model
from pipeline.models.network import (
    PREPROCESSING,
    choose_precision,
    downloading,
    photos_at_once,
    read_checkpoint,
    write_checkpoint,
)
from pipeline.models.open_clip_family import check_activation, templates
from pipeline.models.predictions import predictions_from
from pipeline.models.preprocessing import Preprocessing, torch_resizes
from pipeline.models.registry import network_digest
from pipeline.models.scoring import PhotoRef, score_photos
from pipeline.models.timm_family import match_tensors

ANIMALS = LabelSpace("animals", ("ant", "bee", "cat", "dog"), ("",) * 4, ((),) * 4)
PROMPTED = replace(
    ANIMALS,
    prompts=(("an ant", "an ant on a leaf"), ("a bee",), ("a cat", "a cat at rest"), ("a dog",)),
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    return tiny_clip(folder / "small.json", folder / "small.safetensors")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[PhotoRef]:
    folder = tmp_path_factory.mktemp("photos")
    refs = [PhotoRef(str(n), save_photo(folder / f"{n}.jpg", n)) for n in range(9)]
    refs[4].file.write_bytes(b"no photo")
    return refs


def load(spec: str, labels: LabelSpace = ANIMALS, **options):
    return load_model(ModelSpec.parse(spec), labels, ModelOptions(device="cpu", **options))


def scores(model, photos, *, batch_size: int, workers: int = 0) -> list:
    batches = score_photos(model, photos, batch_size=batch_size, engine=LocalEngine(workers))
    return [row for batch in batches for row in batch]


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_spec_reads_back_as_it_was_written(architecture, weights):
    if not architecture or ":" in architecture:
        return
    spec = ModelSpec("timm", architecture, weights or None)
    assert ModelSpec.parse(str(spec)) == spec
    assert set(spec.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_slug_names_no_folder():
    spec = ModelSpec.parse("timm:tf_efficientnet_lite0:/home/ann/weights/lite.pth")
    assert spec.slug == "timm-tf-efficientnet-lite0-lite"
    spec = ModelSpec.parse("open_clip:ViT-B-32-quickgelu:laion400m_e31")
    assert spec.slug == "open-clip-vit-b-32-quickgelu-laion400m-e31"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ViT-B-32", "write FAMILY:ARCHITECTURE"),
        ("clip:ViT-B-32", "a family of open_clip, timm"),
        ("open_clip:ViT-B-33:openai", "no architecture 'ViT-B-33'; nearest: ViT-B-32"),
        ("open_clip:ViT-B-32-quickgelu", "needs weights: one of its tags"),
        ("open_clip:ViT-B-32:laion3b", "no weights 'laion3b' for ViT-B-32"),
        ("open_clip:ViT-B-32:nowhere.pt", "there is no file nowhere.pt"),
        ("timm:resnet5:a1_in1k", "no architecture 'resnet5'; nearest: resnet"),
        ("timm:resnet50:b9", "no weights 'b9' for resnet50; its tags: .*a1_in1k"),
        ("timm:resnet50:nowhere.pth", "there is no file nowhere.pth"),
    ],
)
def test_a_model_that_is_not_to_be_had_is_one_line_with_what_there_is(text, message):
    labels = label_space("imagenet1k")
    with pytest.raises(CapError, match=message):
        load(text, labels)


@pytest.mark.parametrize(
    ("architecture", "tag", "right"),
    [
        ("ViT-B-32", "laion400m_e31", "ViT-B-32-quickgelu:laion400m_e31"),
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu:openai"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "ViT-B-32:laion2b_s34b_b79k"),
        ("ViT-L-14", "openai", "ViT-L-14-quickgelu:openai"),
    ],
)
def test_weights_trained_with_another_activation_are_refused_with_the_right_name(
    architecture, tag, right
):
    with pytest.raises(CapError, match=f"use open_clip:{right}$"):
        check_activation(architecture, tag)
    check_activation(*right.split(":"))


def test_weights_that_cannot_be_fetched_say_how_to_bring_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        CapError, match=r"could not be fetched .* give the file: open_clip:ViT-B-32"
    ):
        load("open_clip:ViT-B-32-quickgelu:laion400m_e31")


@pytest.mark.parametrize(
    ("text", "file"),
    [
        (
            "open_clip:ViT-L-14:laion2b_s32b_b82k",
            "open_clip:ViT-L-14:FILE, which has the architecture's default preprocessing",
        ),
        (
            "timm:resnet50:a1_in1k",
            "timm:resnet50.a1_in1k:FILE, which has the preprocessing of a1_in1k",
        ),
        ("timm:resnet50", "timm:resnet50:FILE$"),
    ],
)
def test_who_brings_a_file_is_told_which_preprocessing_it_has(text, file):
    with pytest.raises(CapError, match=file), downloading(ModelSpec.parse(text)):
        raise OSError


def written(spec: str, weights: Path, metadata: dict[str, str]) -> str:
    """The SPEC of a copy of a checkpoint that says more of itself."""
    _, config, original = spec.split(":")
    write_checkpoint(weights, load_file(original), metadata)
    return f"open_clip:{config}:{weights}"


def test_a_checkpoint_that_says_how_photos_are_made_ready_for_it_has_that(spec, tmp_path):
    told = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.5, 0.5],
        "interpolation": "bilinear",
        "resize_mode": "longest",
        "fill_color": 7,
    }
    copy = written(spec, tmp_path / "own.safetensors", {PREPROCESSING: json.dumps(told)})
    plain, model = load(spec), load(copy)
    described = json.loads(json.dumps(model.description["preprocessing"]))
    assert described == {**described, **told}
    assert model.digest != plain.digest
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    found = model.preprocess(image)
    # Red between two bands of the fill colour.
    assert found[:, 16, 16].tolist() == [2, -1, -1]
    assert found[0, 0, 0] == pytest.approx((7 / 255 - 0.5) / 0.25)
    again = written(spec, tmp_path / "again.safetensors", model.metadata)
    assert load(again).description["preprocessing"] == model.description["preprocessing"]
    silent = written(spec, tmp_path / "silent.safetensors", {"format": "pt"})
    assert load(silent).description["preprocessing"] == plain.description["preprocessing"]


@pytest.mark.parametrize(
    "told",
    [
        "no JSON",
        "[]",
        '{"mean": [0.5, 0.5, 0.5]}',
        '{"mean": [0.5], "std": [1], "interpolation": "bicubic", "resize_mode": "squash", '
        '"fill_color": 0}',
        '{"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bicubic", '
        '"resize_mode": "widest", "fill_color": 0}',
    ],
)
def test_a_preprocessing_that_is_not_known_is_refused(spec, tmp_path, told):
    copy = written(spec, tmp_path / "own.safetensors", {PREPROCESSING: told})
    with pytest.raises(CapError, match=r"own\.safetensors asks for a preprocessing"):
        load(copy)


def test_a_safetensors_file_that_is_none_is_one_line(spec, tmp_path):
    _, config, _ = spec.split(":")
    (tmp_path / "torn.safetensors").write_bytes(b"no")
    with pytest.raises(CapError, match="is no checkpoint of tensors"):
        load(f"open_clip:{config}:{tmp_path / 'torn.safetensors'}")
    with pytest.raises(CapError, match="is no checkpoint of tensors"):
        read_checkpoint(tmp_path / "torn.safetensors")


def network_of(spec: str):
    _, config, weights = spec.split(":")
    network = open_clip.CLIP(**json.loads(Path(config).read_text())).eval()
    open_clip.load_checkpoint(network, weights)
    return network


def test_scores_are_open_clips_own_zero_shot_cosines(spec, photos):
    model = load(spec)
    network = network_of(spec)
    transform = open_clip.image_transform(32, is_train=False)
    image = transform(open_image(photos[0].file))[None]
    assert torch.equal(model.preprocess(open_image(photos[0].file))[None], image)
    captions = [f"A photo of {name}." for name in ANIMALS.names]
    tokens = open_clip.SimpleTokenizer(context_length=16)(captions)
    with torch.no_grad():
        expected = (
            network.encode_image(image, normalize=True)
            @ network.encode_text(tokens, normalize=True).T
        )
    found, embeddings = model.score(image)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert embeddings.shape == (1, model.embedding_dim)


def test_a_label_spaces_own_prompts_are_averaged_and_the_users_template_beats_them(spec, photos):
    network, tokenize = network_of(spec), open_clip.SimpleTokenizer(context_length=16)
    image = open_clip.image_transform(32, is_train=False)(open_image(photos[0].file))[None]
    with torch.no_grad():
        features = network.encode_image(image, normalize=True)
        means = [
            network.encode_text(tokenize(list(texts)), normalize=True).mean(dim=0)
            for texts in PROMPTED.prompts
        ]
        expected = features @ torch.nn.functional.normalize(torch.stack(means), dim=-1).T
    np.testing.assert_allclose(load(spec, PROMPTED).score(image)[0], expected.numpy(), atol=1e-6)
    sketch, of_the_user = (
        load(spec, labels, prompts="a sketch of {}") for labels in (ANIMALS, PROMPTED)
    )
    np.testing.assert_allclose(of_the_user.score(image)[0], sketch.score(image)[0], atol=1e-6)


def test_scores_do_not_depend_on_batch_size_or_workers_and_a_bad_photo_is_a_row(spec, photos):
    model = load(spec)
    runs = [scores(model, photos, batch_size=b, workers=w) for b, w in ((1, 0), (4, 0), (4, 2))]
    for run in runs:
        assert [row.photo_id for row in run] == [photo.photo_id for photo in photos]
        assert [row.error is None for row in run] == [n != 4 for n in range(9)]
        assert "not an image" in run[4].error
        for row, first in zip(run, runs[0], strict=True):
            if row.error is None:
                np.testing.assert_allclose(row.scores, first.scores, atol=1e-5)


def test_on_a_cpu_few_photos_pass_through_the_network_at_once(spec, photos, monkeypatch):
    model, sizes = load(spec), []
    score = model.score
    monkeypatch.setattr(model, "score", lambda batch: sizes.append(len(batch)) or score(batch))
    monkeypatch.setattr(model, "at_once", 16)
    rows = scores(model, [photos[0]] * 40, batch_size=40)
    assert len(rows) == 40
    assert sizes == [16, 16, 8]


def test_the_wider_a_network_the_fewer_photos_pass_at_once(spec):
    assert load(spec).at_once == 32
    for numbers, most in ((10, 32), (2**20, 8), (3 * 2**20, 2), (9 * 2**20, 1)):
        network = torch.nn.Sequential(torch.nn.Linear(1, numbers), torch.nn.MaxPool1d(numbers))
        assert photos_at_once(network, lambda network=network: network(torch.ones(1, 1))) == most
        assert not any(module._forward_hooks for module in network.modules())


def test_a_model_that_returns_nan_gives_rows_that_say_so(spec, photos):
    model = load(spec)
    with torch.no_grad():
        model._head[1] = float("nan")
    rows = scores(model, photos[:2], batch_size=2)
    assert {row.error for row in rows} == {"the model returned a score that is not a number"}


def test_the_digest_follows_what_decides_the_scores_and_nothing_else(spec, tmp_path):
    first = load(spec)
    _, config, weights = spec.split(":")
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(weights, tmp_path / "elsewhere" / "other-name.safetensors")
    assert load(f"open_clip:{config}:{copy}").digest == first.digest
    changed = tiny_clip(tmp_path / "small-1.json", tmp_path / "small-1.pt", seed=1)
    assert load(spec, prompts="A photo of {}.").digest == first.digest
    assert load(spec, PROMPTED, prompts="A photo of {}.").digest == first.digest
    reworded = replace(PROMPTED, prompts=(("an ant",), *PROMPTED.prompts[1:]))
    # Other heads change what the same weights make of a photo, under the same name.
    described = json.loads(Path(config).read_text())
    described["vision_cfg"]["head_width"] = 8
    other = tmp_path / Path(config).name
    other.write_text(json.dumps(described))
    with pytest.MonkeyPatch.context() as patch:
        # As in another process, which has not read the first.
        patch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
        patch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])
        rewritten = load(f"open_clip:{other}:{weights}")
    others = [
        rewritten,
        load(spec, PROMPTED),
        load(spec, reworded),
        load(spec, prompts="a sketch of {}"),
        load(spec, LabelSpace("animals", ("ant", "bee"), ("",) * 2, ((),) * 2)),
        load(changed),
    ]
    assert len({model.digest for model in [first, *others]}) == 7
    assert network_digest(rewritten.description) != network_digest(first.description)


def test_the_receipts_description_says_all_that_is_needed_to_score_again(spec):
    described = load(spec, prompts="openai80").description
    assert described["family"] == "open_clip"
    assert described["weights"] == "small.safetensors"
    assert len(described["weights_sha256"]) == 64
    assert described["activation"] == "gelu"
    assert described["preprocessing"]["size"] in (32, (32, 32))
    assert len(described["prompts"]) == 80
    assert described["precision"] == "float32"
    assert json.loads(json.dumps(described)) == json.loads(json.dumps(described))


def test_quickgelu_of_a_local_configuration_is_recorded(tmp_path):
    spec = tiny_clip(tmp_path / "quick.json", tmp_path / "quick.pt", quick_gelu=True)
    assert load(spec).description["activation"] == "quickgelu"


def test_text_features_are_computed_once(spec, tmp_path, photos):
    fresh = load(spec, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    again = load(spec, cache_dir=tmp_path)
    assert again.digest == fresh.digest
    image = fresh.preprocess(open_image(photos[0].file))[None]
    np.testing.assert_array_equal(fresh.score(image)[0], again.score(image)[0])
    np.save(file, np.zeros_like(np.load(file)))
    assert (load(spec, cache_dir=tmp_path).score(image)[0] == 0).all()
    load(spec, cache_dir=tmp_path, prompts="a sketch of {}")
    load(spec, PROMPTED, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_name_that_open_clip_has_is_not_replaced_by_a_file(tmp_path):
    spec = tiny_clip(tmp_path / "ViT-B-32.json", tmp_path / "w.pt")
    with pytest.raises(CapError, match=r"another architecture called 'ViT-B-32'; rename"):
        load(spec)
    assert open_clip.get_model_config("ViT-B-32")["embed_dim"] == 512


class Payload:
    """Pickled code, as a malicious checkpoint would hold."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/cap-payload-ran"),)


def test_a_checkpoint_with_pickled_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"state_dict": Payload()}, protocol=2))
    torch.save({"state_dict": Payload()}, tmp_path / "evil2.pt")
    for file in (path, tmp_path / "evil2.pt"):
        with pytest.raises(CapError, match="no checkpoint of tensors alone"):
            load(f"timm:tf_efficientnet_lite0:{file}", label_space("imagenet1k"))
    assert not Path("/tmp/cap-payload-ran").exists()


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, spec):
    other = tiny_clip(tmp_path / "wide.json", tmp_path / "wide.pt", embed_dim=24)
    config = spec.split(":")[1]
    with pytest.raises(CapError, match=r"wide\.pt does not fit small"):
        load(f"open_clip:{config}:{other.split(':')[2]}")


def test_tensors_under_other_names_are_matched_in_order_if_shape_and_kind_agree():
    wanted = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    found = {"x.weight": torch.ones(2, 3), "x.bias": torch.ones(2)}
    tensors, mapping = match_tensors(found, wanted, "f")
    assert mapping == "by order"
    assert tensors["a.weight"] is found["x.weight"]
    assert match_tensors(wanted, wanted, "f")[1] == "by name"
    for wrong in (
        {"x.weight": torch.ones(3, 2), "x.bias": torch.ones(2)},
        {"x.weight": torch.ones(2, 3), "x.running_mean": torch.ones(2)},
        {"x.weight": torch.ones(2, 3)},
        {**found, "y.bias": torch.ones(2)},
    ):
        with pytest.raises(CapError, match="f does not fit the architecture"):
            match_tensors(wrong, wanted, "f")


def test_the_packaged_efficientnet_is_read_with_its_own_preprocessing():
    from conftest import weights

    model = load(f"timm:tf_efficientnet_lite0:{weights()}", label_space("imagenet1k"))
    described = model.description
    assert described["weights_mapping"] == "by order"
    assert described["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert described["preprocessing"]["crop_pct"] == 0.875
    found, embeddings = model.score(torch.zeros(1, 3, 224, 224))
    assert found.shape == (1, 1000)
    assert embeddings.shape == (1, model.embedding_dim)


@pytest.mark.parametrize("labels", [ANIMALS, label_space("backgrounds")])
def test_a_classifier_knows_its_own_classes_only(labels):
    with pytest.raises(CapError, match=f"imagenet1k only, not {labels.name}; use an open_clip"):
        load("timm:tf_efficientnet_lite0", labels)


def test_a_device_that_is_not_there_is_refused(spec):
    with pytest.raises(CapError, match="device 'cuda:7' is not to be had"):
        load_model(ModelSpec.parse(spec), ANIMALS, ModelOptions(device="cuda:7"))


@pytest.mark.parametrize(
    "prompts", ["A photo.", "{} and {}", "{0}", "{name} {}", "A {x} photo of {}.", "{}}"]
)
def test_a_prompt_without_one_place_for_the_class_is_refused(prompts):
    with pytest.raises(CapError, match=r"needs one \{\} for the class name"):
        templates(prompts)


SCORES = st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=5).map(
    lambda rows: np.array(rows, dtype=np.float32)
)


@given(SCORES, st.data())
def test_rank_margin_and_correctness_follow_from_the_scores(found, data):
    targets = data.draw(st.lists(st.integers(0, 3), min_size=len(found), max_size=len(found)))
    for row, target, values in zip(
        predictions_from(targets, found, ANIMALS), targets, found, strict=True
    ):
        order = sorted(range(4), key=lambda i: (-values[i], i))
        assert row["predicted_index"] == order[0]
        assert row["target_rank"] == order.index(target) + 1
        assert row["correct"] == (row["target_rank"] == 1)
        best_other = max(v for i, v in enumerate(values) if i != target)
        assert row["margin"] == values[target] - best_other
        assert row["target_score"] == values[target]
    assert "correct" not in predictions_from([None], found[:1], ANIMALS)[0]


def test_a_png_with_transparency_and_a_grey_photo_become_rgb(tmp_path, spec):
    model = load(spec)
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (40, 40), 99).save(tmp_path / "b.jpg")
    refs = [PhotoRef(p.name, p) for p in sorted(tmp_path.iterdir())]
    assert all(row.error is None for row in scores(model, refs, batch_size=2))


def test_a_compiled_model_gives_the_same_scores_and_can_be_sent_away(spec, photos):
    if shutil.which("g++") is None:
        pytest.skip("torch compiles with g++, which is not installed")
    plain, compiled = load(spec), load(spec, compile=True)
    expected = scores(plain, photos, batch_size=4)
    for model in (compiled, pickle.loads(pickle.dumps(compiled))):
        for row, other in zip(scores(model, photos, batch_size=4), expected, strict=True):
            assert row.error == other.error
            if other.scores is not None:
                np.testing.assert_allclose(row.scores, other.scores, atol=1e-5)


def whole_transform(model) -> Callable[[Image.Image], torch.Tensor]:
    """The transform that a model's library makes for it."""
    if model.description["family"] == "timm":
        data = timm.data.resolve_model_data_config(model._network)
        return timm.data.create_transform(**data, is_training=False)
    config = open_clip.transform.PreprocessCfg(**model.network.visual.preprocess_cfg)
    return open_clip.transform.image_transform_v2(config, is_train=False)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@given(width=st.integers(2, 90), height=st.integers(2, 90), seed=st.integers(0, 99))
@settings(deadline=None)
def test_preprocessing_in_two_parts_is_the_librarys_own(mode, width, height, seed):
    config = open_clip.transform.PreprocessCfg(size=32, resize_mode=mode)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    colors = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(colors)
    parts = Preprocessing(transform)
    assert torch.equal(parts(image), transform(image))
    pixels = parts.pixels(image)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 32, 32))
    numbers = transform(image)[None]
    assert parts.numbers(numbers) is numbers


@given(width=st.integers(96, 200), height=st.integers(96, 200), seed=st.integers(0, 99))
@settings(deadline=None)
def test_torch_resizes_nearly_as_pillow_does(width, height, seed):
    transform = open_clip.image_transform(32, is_train=False)
    colors = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(colors)
    exact = Preprocessing(transform).pixels(image).int()
    fast = Preprocessing(transform, fast=True).pixels(image).int()
    assert (fast - exact).abs().max() <= 2


def test_a_photo_too_narrow_for_the_model_is_a_row_that_says_so():
    config = open_clip.transform.PreprocessCfg(size=32, resize_mode="longest")
    parts = Preprocessing(open_clip.transform.image_transform_v2(config, is_train=False))
    with pytest.raises(PhotoError, match=r"^1 by 64 pixels cannot be resized for the model: "):
        parts.pixels(Image.new("RGB", (1, 64)))


@pytest.mark.parametrize("fast", [False, True])
def test_a_photo_too_thin_to_be_resized_is_a_row_that_says_so(fast):
    config = open_clip.transform.PreprocessCfg(size=32)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    parts = Preprocessing(transform, fast=fast)
    assert parts.pixels(Image.new("RGB", (400, 2))).shape == (3, 32, 32)
    with pytest.raises(PhotoError, match=r"^2 by 16000 pixels are too thin a photo"):
        parts.pixels(Image.new("RGB", (2, 16000)))


@pytest.mark.parametrize("architecture", ["resnetv2_50", "deit_tiny_distilled_patch16_224"])
def test_a_classifier_of_another_kind_gives_its_own_logits(architecture, photos, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model(architecture).eval()
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    model = load(f"timm:{architecture}:{tmp_path / 'own.safetensors'}", label_space("imagenet1k"))
    batch = model.preprocess(open_image(photos[0].file))[None]
    logits, features = model.score(batch)
    with torch.inference_mode():
        np.testing.assert_allclose(logits, network(batch).numpy(), atol=1e-5)
    assert features.shape == (1, model.embedding_dim)


def test_a_gpu_that_does_not_compute_in_bf16_is_given_float32(monkeypatch):
    options = ModelOptions(device="cuda")
    # As on the machine that sends work to a cluster, which has no GPU itself.
    assert choose_precision(options, torch.device("cuda")) == "bf16"
    assert choose_precision(options, torch.device("cpu")) == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_it, precision in ((False, "float32"), (True, "bf16")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, has_it=has_it: has_it
        )
        assert choose_precision(options, torch.device("cuda")) == precision
        assert choose_precision(replace(options, precision="bf16"), torch.device("cuda")) == "bf16"


def test_a_receipt_says_who_resizes_reduced_photos(spec):
    for mode, resized_by in (("shortest", "torch"), ("longest", "pillow")):
        cfg = open_clip.transform.PreprocessCfg(size=32, resize_mode=mode)
        transform = open_clip.transform.image_transform_v2(cfg, is_train=False)
        assert torch_resizes(transform) == (resized_by == "torch")
    model = load(spec, reduced=True)
    assert model.description["preprocessing"]["resized_by"] == "torch"
    assert model.digest != load(spec).digest


def test_every_family_is_preprocessed_as_by_its_library(spec, photos, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), tmp_path / "small.safetensors")
    classifier = load(
        f"timm:test_resnet:{tmp_path / 'small.safetensors'}", label_space("imagenet1k")
    )
    image = open_image(photos[0].file)
    fast = load(classifier.name, label_space("imagenet1k"), reduced=True)
    apart = fast.preprocess.pixels(image).int() - classifier.preprocess.pixels(image).int()
    assert apart.abs().max() <= 2
    for model in (load(spec), classifier):
        whole = whole_transform(model)(image)
        assert torch.equal(model.preprocess(image), whole)
        by_pixels = model.score(model.preprocess.pixels(image)[None])
        for one, other in zip(by_pixels, model.score(whole[None]), strict=True):
            np.testing.assert_array_equal(one, other)
