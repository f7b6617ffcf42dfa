"""The losses of fine-tuning, beside their definitions word by word."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from pipeline.mitigate.losses import Choices, GroupWeights, class_loss, clip_loss, region_losses
from pipeline.mitigate.training import interpolated


def literal(cosines, image, spurious, label, choices: Choices) -> tuple[float, float]:
    """Equations 3 to 9 as loops over images, labels and regions."""
    images = range(len(label))
    relevant = {i: [] for i in images}
    bad = []
    for region, (own, is_bad) in enumerate(zip(image.tolist(), spurious.tolist(), strict=True)):
        every = [r for r, other in enumerate(image.tolist()) if other == own]
        kept = choices.all_spurious == "relevant" and all(spurious[r] for r in every)
        if is_bad and not kept:
            bad.append(region)
        else:
            relevant[own].append(region)

    def e(region: int, y: int) -> float:
        return math.exp(cosines[region, y].item() / choices.temperature)

    def sigma(i: int, y: int) -> float:
        return max(e(region, y) for region in relevant[i])

    labels = label.tolist()
    candidates = labels if choices.candidates == "multiset" else sorted(set(labels))
    penalty = sum(max(e(region, y) for y in labels) for region in bad)
    first, second = [], []
    for i in images:
        if not relevant[i]:
            continue
        own = sigma(i, labels[i])
        first.append(-math.log(own / (sum(sigma(i, y) for y in candidates) + penalty)))
        rivals = sum(sigma(j, labels[i]) for j in images if labels[j] != labels[i] and relevant[j])
        negatives = sum(e(region, labels[i]) for region in bad)
        second.append(-math.log(own / (own + rivals + negatives)))
    if not first:
        return 0.0, 0.0
    total = (sum(first), sum(second))
    return total if choices.reduction == "sum" else (total[0] / len(first), total[1] / len(first))


batches = st.tuples(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 0.8, 1.0]),
)
choices = st.builds(
    Choices,
    temperature=st.sampled_from([0.07, 0.5]),
    candidates=st.sampled_from(["distinct", "multiset"]),
    reduction=st.sampled_from(["mean", "sum"]),
    all_spurious=st.sampled_from(["skip", "relevant"]),
    spurious_gradient=st.booleans(),
)


def drawn(batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    seed, images, labels, share = batch
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 5, (images,), generator=generator)
    image = torch.repeat_interleave(torch.arange(images), counts)
    cosines = torch.rand(len(image), labels, generator=generator).double() * 2 - 1
    spurious = torch.rand(len(image), generator=generator) < share
    label = torch.randint(0, labels, (images,), generator=generator)
    return cosines, image, spurious, label


@given(batches, choices)
def test_the_region_losses_are_those_of_the_equations(batch, choices):
    cosines, image, spurious, label = drawn(batch)
    found = region_losses(cosines, image, spurious, label, choices)
    assert [loss.item() for loss in found] == pytest.approx(
        literal(cosines, image, spurious, label, choices), abs=1e-9
    )


@given(batches, choices)
def test_spurious_regions_are_pushed_from_labels_and_never_pulled(batch, choices):
    cosines, image, spurious, label = drawn(batch)
    cosines.requires_grad_(True)
    sum(region_losses(cosines, image, spurious, label, choices)).backward()
    assert torch.isfinite(cosines.grad).all()
    bad = spurious.clone()
    if choices.all_spurious == "relevant":
        has = torch.zeros(len(label), dtype=torch.bool)
        has[image[~spurious]] = True
        bad &= has[image]
    pushed = cosines.grad[bad]
    if choices.spurious_gradient:
        assert (pushed >= 0).all()
        if not bad.all():
            assert (pushed.sum(dim=1) > 0).all()
    else:
        assert not pushed.any()


def test_a_batch_without_relevant_regions_has_no_loss_and_no_gradient():
    cosines = torch.zeros(3, 2, requires_grad=True)
    everything = torch.ones(3, dtype=torch.bool)
    found = region_losses(
        cosines, torch.tensor([0, 0, 1]), everything, torch.tensor([0, 1]), Choices()
    )
    sum(found).backward()
    assert [loss.item() for loss in found] == [0, 0]
    assert not cosines.grad.any()


def test_the_contrast_is_clips_own():
    generator = torch.Generator().manual_seed(0)
    features, text = torch.nn.functional.normalize(
        torch.randn(2, 6, 8, generator=generator), dim=-1
    )
    logits = 9 * features @ text.T
    target = torch.arange(6)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(logits, target) + entropy(logits.T, target)) / 2
    assert clip_loss(features, text, torch.tensor(9.0)) == pytest.approx(expected)
    head, label = text[:3], torch.tensor([0, 1, 2, 0, 1, 2])
    losses = class_loss(features, head, label, torch.tensor(9.0))
    assert losses.mean() == pytest.approx(entropy(9 * features @ head.T, label))


def test_group_weights_rise_with_the_loss_of_their_group():
    weights = GroupWeights(3, step=0.5)
    losses, group = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([0, 0, 1])
    # By hand: group means are 2, 0 and, for want of photos, 0.
    grown = [math.exp(0.5 * 2) / 3, 1 / 3, 1 / 3]
    expected = [value / sum(grown) for value in grown]
    assert weights(losses, group) == pytest.approx(2 * expected[0])
    assert weights.weights.tolist() == pytest.approx(expected)


def test_weights_between_two_models():
    before = {"a": torch.tensor([0.0, 2.0]), "steps": torch.tensor(3)}
    after = {"a": torch.tensor([4.0, 2.0]), "steps": torch.tensor(9)}
    found = interpolated(before, after, 0.25)
    assert found["a"].tolist() == [1.0, 2.0]
    assert found["steps"] == 9
    assert interpolated(before, after, 1.0)["a"].tolist() == [4.0, 2.0]
