"""The paper's companion experiments: their data is as described, their formulas hold."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from controlled import colored_backgrounds, colored_digits, companions, theorem
from controlled.figures import estimate
from controlled.theorem import World
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def share_is(hits: np.ndarray, share: float) -> bool:
    """Whether a share is within four standard errors of what it should be."""
    return abs(hits.mean() - share) <= 4 * np.sqrt(share * (1 - share) / len(hits)) + 1e-12


worlds = st.builds(
    World,
    p_spu=st.floats(0.55, 1.0),
    mu_spu=st.floats(0.0, 3.0),
    sigma_inv=st.floats(0.3, 2.0),
    sigma_spu=st.floats(0.3, 2.0),
    mu_inv=st.floats(0.5, 2.0),
    noise=st.floats(0.0, 2.0),
    image_dim=st.integers(2, 12),
    text_dim=st.integers(2, 12),
)
seeds = st.integers(0, 2**32 - 1)


class TestTheorem:
    def test_the_attribute_is_the_label_with_p_spu(self) -> None:
        rng = np.random.default_rng(0)
        world = World(p_spu=0.9, mu_spu=2.0)
        pairs = theorem.draw(world, theorem.modality_maps(world, rng), 20_000, rng)
        assert share_is(pairs.attributes == pairs.labels, 0.9)
        assert share_is(pairs.labels > 0, 0.5)

    def test_images_and_texts_share_features_and_nothing_else(self) -> None:
        rng = np.random.default_rng(1)
        world = World(p_spu=0.9, mu_spu=2.0)
        image_map, text_map = theorem.modality_maps(world, rng)
        pairs = theorem.draw(world, (image_map, text_map), 100_000, rng)
        tie = 0.8
        covariance = np.array([[2.0, tie * 2.0], [tie * 2.0, 5.0]])
        expected = image_map @ covariance @ text_map.T
        found = theorem.cross_covariance(pairs.images, pairs.texts)
        assert np.abs(found - expected).max() < 0.06

    @settings(max_examples=20, deadline=None)
    @given(worlds, seeds)
    def test_the_loss_is_minus_the_cross_covariance_along_the_product(
        self, world: World, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        pairs = theorem.draw(world, theorem.modality_maps(world, rng), 15, rng)
        encoders = theorem.Encoders(
            rng.normal(size=(2, world.image_dim)), rng.normal(size=(2, world.text_dim))
        )
        product = encoders.image.T @ encoders.text
        along = (theorem.cross_covariance(pairs.images, pairs.texts) * product).sum()
        assert theorem.linearised_loss(encoders, pairs.images, pairs.texts) == pytest.approx(
            theorem.RHO / 2 * (product**2).sum() - along
        )

    @settings(max_examples=4, deadline=None)
    @given(seeds)
    def test_gradient_descent_on_the_loss_reaches_the_encoders_of_the_closed_form(
        self, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        world = World(p_spu=0.9, mu_spu=1.5, image_dim=4, text_dim=3)
        pairs = theorem.draw(world, theorem.modality_maps(world, rng), 200, rng)
        fitted = theorem.fit(pairs.images, pairs.texts)
        images, texts = torch.from_numpy(pairs.images), torch.from_numpy(pairs.texts)
        count = len(images)
        image, text = (
            torch.from_numpy(0.1 * rng.normal(size=(2, dim))).requires_grad_() for dim in (4, 3)
        )
        optimiser = torch.optim.SGD([image, text], lr=0.05)
        for _ in range(1_500):
            similarity = (images @ image.T) @ (texts @ text.T).T
            contrast = (similarity.sum() - count * similarity.trace()) / (count * (count - 1))
            loss = contrast + theorem.RHO / 2 * ((image.T @ text) ** 2).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        product = (image.T @ text).detach().numpy()
        assert np.abs(product - fitted.image.T @ fitted.text).max() < 0.01
        assert loss.item() == pytest.approx(
            theorem.linearised_loss(fitted, pairs.images, pairs.texts), abs=1e-4
        )

    @settings(max_examples=20, deadline=None)
    @given(worlds, seeds)
    def test_the_population_error_is_that_of_encoders_fitted_to_endless_pairs(
        self, world: World, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        maps = theorem.modality_maps(world, rng)
        tie = (2 * world.p_spu - 1) * world.mu_inv * world.mu_spu
        covariance = np.array(
            [
                [world.mu_inv**2 + world.sigma_inv**2, tie],
                [tie, world.mu_spu**2 + world.sigma_spu**2],
            ]
        )
        # Encoders (2, d) whose product is the population's cross-covariance.
        endless = theorem.Encoders(covariance @ maps[0].T, maps[1].T)
        pairs = theorem.draw(replace(world, p_spu=0.5), maps, 8_000, rng)
        found = theorem.zero_shot_error(endless, pairs, world, maps[1])
        for error, derived in zip(found, theorem.population_error(world), strict=True):
            assert abs(error - derived) <= 5 * np.sqrt(derived * (1 - derived) / 3_500) + 0.002

    @pytest.mark.parametrize("mu_spu", [0.5, 1.5, 3.0])
    def test_the_population_error_is_what_simulations_scatter_about(self, mu_spu: float) -> None:
        world = World(p_spu=0.9, mu_spu=mu_spu)
        rows = [theorem.measure(world, seed, 4_000, 4_000) for seed in range(8)]
        for name, derived in zip(("same", "other"), theorem.population_error(world), strict=True):
            found = estimate([row[name] for row in rows])
            assert abs(found.mean - derived) <= 2 * found.half + 0.003

    @given(st.floats(0.05, 5.0), st.floats(0.51, 1.0))
    def test_the_crossing_separates_less_from_more_than_half_wrong(
        self, sigma_inv: float, p_spu: float
    ) -> None:
        at = theorem.crossing(World(p_spu, 0.0, sigma_inv))
        below, above = (
            theorem.population_error(World(p_spu, at * by, sigma_inv))[1] for by in (0.99, 1.01)
        )
        assert below < 0.5 < above

    @given(st.floats(0.05, 5.0), st.floats(1.0, 3.0))
    def test_from_the_papers_threshold_on_most_images_are_wrong_where_a_is_not_y(
        self, sigma_inv: float, times: float
    ) -> None:
        mu_spu = times * theorem.quoted_threshold(sigma_inv)
        same, other = theorem.population_error(World(1.0, mu_spu, sigma_inv))
        assert same < 0.5 <= other + 1e-9

    @given(st.floats(0.3, 3.0), st.floats(0.3, 3.0), st.floats(0.5, 1.0))
    def test_the_quoted_bound_is_the_population_error_where_the_attribute_is_as_strong_as_the_label(
        self, sigma_inv: float, sigma_spu: float, p_spu: float
    ) -> None:
        world = World(p_spu, 1.0, sigma_inv, sigma_spu, noise=0.0)
        assert theorem.quoted_bound(world) == pytest.approx(theorem.population_error(world)[1])

    def test_the_quoted_bound_is_none_of_this_model_where_the_label_is_easy_to_see(self) -> None:
        world = World(0.99, 2.25, sigma_inv=0.5)
        assert theorem.quoted_bound(world) > theorem.population_error(world)[1] + 0.02

    def test_the_quoted_bound_is_one_half_at_the_quoted_threshold(self) -> None:
        world = World(1.0, theorem.quoted_threshold(1.3), 1.3)
        assert theorem.quoted_bound(world) == pytest.approx(0.5)

    def test_a_small_run_repeats_itself(self) -> None:
        small = {"mu_spu": (0.0, 2.0), "pairs": 200, "images": 200}
        first = theorem.run(range(2), **small)
        assert first == theorem.run(range(2), **small)
        assert len(first) == len(theorem.P_SPU) * len(theorem.SIGMA_INV) * 2 * 2


class TestColouredDigits:
    @settings(max_examples=15, deadline=None)
    @given(st.sampled_from(colored_digits.CLASSES), st.floats(0.5, 1.0), st.floats(0.5, 1.0), seeds)
    def test_digit_and_colour_are_the_labels_with_p_inv_and_p_spu(
        self, k: int, p_inv: float, p_spu: float, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        images = colored_digits.draw(k, (p_inv, p_spu), 3_000, "train", rng)
        label, shown, colour = (part.numpy() for part in images[1:])
        assert share_is(shown == label, p_inv)
        assert share_is(colour == label, p_spu)
        for other in (shown, colour):
            assert set(other) <= set(range(k))

    def test_what_is_not_the_labels_is_drawn_evenly_from_the_others(self) -> None:
        rng = np.random.default_rng(0)
        label = np.full(40_000, 3)
        for drawn in (
            colored_digits.draw_shown(label, 5, 0.6, rng),
            colored_digits.draw_colours(label, 5, 0.6, None, rng),
        ):
            others = np.bincount(drawn, minlength=5)[[0, 1, 2, 4]]
            assert stats.chisquare(others).pvalue > 1e-4

    @pytest.mark.parametrize("k", colored_digits.CLASSES)
    def test_in_rand_colours_say_nothing(self, k: int) -> None:
        rng = np.random.default_rng(k)
        label = rng.integers(0, k, 20_000)
        assert share_is(colored_digits.draw_colours(label, k, 0.9, "rand", rng) == label, 1 / k)

    @pytest.mark.parametrize("k", colored_digits.CLASSES)
    def test_in_rev_labels_0_and_1_mostly_have_each_others_colour(self, k: int) -> None:
        rng = np.random.default_rng(k)
        label = rng.integers(0, k, 20_000)
        colour = colored_digits.draw_colours(label, k, 0.9, "rev", rng)
        two = label < 2
        assert share_is(colour[two] == label[two], 0.1)
        assert (colour[two] < 2).all()
        if k > 2:
            assert share_is(colour[~two] == label[~two], 1 / k)

    def test_no_digit_is_in_two_parts(self) -> None:
        pixels = [
            colored_digits.draw(
                10, (1.0, 1.0), 3_000, part, np.random.default_rng(0)
            ).pixels.flatten(1)
            for part in ("train", "validation", "test")
        ]
        kinds = [{tuple(image) for image in part.unique(dim=0).tolist()} for part in pixels]
        assert all(kinds)
        assert not kinds[0] & kinds[1] | kinds[0] & kinds[2] | kinds[1] & kinds[2]

    @settings(max_examples=15, deadline=None)
    @given(
        st.sampled_from(colored_digits.CLASSES),
        st.sampled_from([*colored_digits.STRENGTHS, (0.8, 0.6)]),
        st.sampled_from([None, "rand", "rev"]),
        seeds,
    )
    def test_the_ideal_readers_accuracy_is_that_of_its_rule(
        self, k: int, strengths: tuple[float, float], test: str | None, seed: int
    ) -> None:
        p_inv, p_spu = strengths
        rng = np.random.default_rng(seed)
        label = rng.integers(0, k, 20_000)
        shown = colored_digits.draw_shown(label, k, p_inv, rng)
        colour = colored_digits.draw_colours(label, k, p_spu, test, rng)
        # It takes the stronger of the two signs; where they are as strong, either.
        by_digit = np.full(len(label), p_inv > p_spu)
        if p_inv == p_spu:
            by_digit = rng.random(len(label)) < 0.5
        right = np.where(by_digit, shown, colour) == label
        every, two = colored_digits.ideal_accuracy(k, p_inv, p_spu, test)
        assert share_is(right, every)
        assert share_is(right[label < 2], two)

    def test_networks_learned_side_by_side_are_those_learned_alone(self) -> None:
        rng = np.random.default_rng(0)
        images = [colored_digits.draw(2, (0.9, 0.9), 300, "train", rng) for _ in range(2)]
        both = colored_digits.Coloured(*(torch.stack(parts) for parts in zip(*images, strict=True)))
        for method in colored_digits.METHODS:
            together = colored_digits.fit(both, 2, method, 6e-3, (3, 4))(both.pixels)
            alone = colored_digits.Coloured(*(part[1:] for part in both))
            single = colored_digits.fit(alone, 2, method, 6e-3, (4,))(alone.pixels)
            assert (together[1].argmax(1) == single[0].argmax(1)).float().mean() > 0.98

    def test_heads_follow_a_stronger_colour_and_captions_learn_the_digit(self) -> None:
        def reversed_(strengths: tuple[float, float]) -> dict[str, float]:
            rows = colored_digits.measure(
                2, strengths, (0, 1), learning_rates=(5e-3,), images=1_000
            )
            return {
                method: np.mean([row["rev"] for row in rows if row["method"] == method])
                for method in colored_digits.METHODS
            }

        stronger = reversed_((0.75, 0.9))
        assert stronger["contrastive"] < 0.3
        assert stronger["supervised"] < 0.3
        as_strong = reversed_((0.9, 0.9))
        assert as_strong["captions"] > as_strong["supervised"] + 0.1

    def test_a_small_run_repeats_itself(self) -> None:
        small = {"classes": (2,), "strengths": ((0.9, 0.9),), "images": 200}
        small["learning_rates"] = (6e-3,)
        assert colored_digits.run(range(2), **small) == colored_digits.run(range(2), **small)


SMALL = colored_backgrounds.Size(20, pretraining_steps=12, steps=12, photos=150)


class TestColouredBackgrounds:
    @settings(max_examples=15, deadline=None)
    @given(seeds)
    def test_in_fine_tuning_four_in_five_have_their_own_colour_and_the_rest_a_further_one(
        self, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        objects = rng.integers(0, 9, 5_000)
        colour = colored_backgrounds.draw_backgrounds(objects, "tied", rng)
        own = colour == objects
        assert share_is(own, 0.8)
        assert set(colour[~own]) == set(colored_backgrounds.FURTHER)

    @settings(max_examples=15, deadline=None)
    @given(seeds)
    def test_ood_never_shows_the_own_colour_but_always_another_classs(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        objects = rng.integers(0, 9, 5_000)
        colour = colored_backgrounds.draw_backgrounds(objects, "swapped", rng)
        assert (colour != objects).all()
        assert set(colour[objects == 4]) == set(colored_backgrounds.OWN) - {4}

    def test_a_photo_has_its_colour_in_its_corners(self) -> None:
        rng = np.random.default_rng(0)
        photos = colored_backgrounds.draw("test", "any", SMALL, rng)
        assert photos.pixels.shape == (150, 3, 24, 24)
        assert photos.pixels.min() >= -1
        assert photos.pixels.max() <= 1
        tints = np.array(list(colored_backgrounds.COLOURS.values())) / 255
        expected = 2 * tints[photos.background.numpy()] - 1
        found = photos.pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].numpy()
        assert (np.abs(found - expected[:, :, None]).min(axis=2) < 1e-6).all()

    def test_no_digit_is_in_two_parts(self) -> None:
        parts = [set(part) for part in colored_backgrounds.PARTS.values()]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 9

    def test_captions_name_object_and_background(self) -> None:
        from open_clip import SimpleTokenizer

        tokenize = SimpleTokenizer(context_length=16)
        photos = colored_backgrounds.Photos(
            torch.zeros(1, 3, 24, 24), torch.tensor([2]), torch.tensor([0])
        )
        for named, caption in (
            (False, "a photo of two"),
            (True, "a photo of two in red background"),
        ):
            found = colored_backgrounds.captions(photos, named)
            assert (found == tokenize([caption])).all()

    def test_the_setting_is_chosen_by_id_accuracy_alone(self) -> None:
        row = {"method": "obj", "asked": "object", "weight_decay": 0.1}
        searched = [
            row | {"learning_rate": 1e-4, "id": 0.8, "ood": 0.7},
            row | {"learning_rate": 1e-3, "id": 0.9, "ood": 0.1},
        ]
        assert colored_backgrounds.choose(searched) == {("obj", "object"): (1e-3, 0.1)}

    def test_fine_tuning_leaves_the_pretrained_model_as_it_was(self) -> None:
        pretrained = colored_backgrounds.pretrain(0, SMALL)
        before = {name: value.clone() for name, value in pretrained.state_dict().items()}
        photos = colored_backgrounds.draw("finetune", "tied", SMALL, np.random.default_rng(0))
        tuned = colored_backgrounds.fine_tune(pretrained, "objbkg", photos, (1e-3, 0.1), 12, 0)
        after = pretrained.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        learned = tuned.model.state_dict()
        assert not torch.equal(learned["text_projection"], before["text_projection"])
        assert not torch.equal(learned["visual.0.weight"], before["visual.0.weight"])

    def test_fine_tuning_on_tied_colours_costs_accuracy_on_swapped_ones(self) -> None:
        size = colored_backgrounds.Size(20, pretraining_steps=150, steps=80, photos=1_000)
        settings_ = {("obj", "object"): (1e-3, 0.1), ("supervised", "linear head"): (1e-3, 0.1)}
        settings_ |= {
            ("objbkg", asked): (1e-3, 0.1) for asked in colored_backgrounds.METHODS["objbkg"]
        }
        rows = {
            (row["method"], row["asked"]): row
            for row in colored_backgrounds.measure(settings_, size, 0)
        }
        zero_shot = rows["zero-shot", "object"]
        assert abs(zero_shot["id"] - zero_shot["ood"]) < 0.1
        for key in (("obj", "object"), ("supervised", "linear head")):
            assert rows[key]["id"] > rows[key]["ood"] + 0.3
        assert rows["obj", "object"]["ood"] < zero_shot["ood"] - 0.2

    def test_a_small_run_repeats_itself_and_can_be_told(self, tmp_path: Path) -> None:
        results = colored_backgrounds.run(range(1), sizes={"small": SMALL})
        again = colored_backgrounds.measure(
            colored_backgrounds.choose(results["small"].searched), SMALL, 0
        )
        assert again == results["small"].measured
        assert colored_backgrounds.table(results).count("| objbkg |") == 3
        assert colored_backgrounds.rates(results).count("| objbkg |") == 3
        assert colored_backgrounds.plot(results, tmp_path / "plot.png").stat().st_size > 0


class TestCommand:
    def test_it_writes_a_plot_and_prints_tables(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(
            companions.main, ["--only", "theorem", "--seeds", "2", "--out", str(tmp_path)]
        )
        assert done.exit_code == 0, done.output
        assert done.output.startswith("## theorem, 2 seeds")
        assert "| sigma_inv | p_spu | mu_spu |" in done.output
        assert (tmp_path / "companion-theorem.png").read_bytes()[:4] == b"\x89PNG"

    def test_the_digits_tables_and_plot_hold_every_cell(self, tmp_path: Path) -> None:
        rows = [
            {"p_inv": p_inv, "p_spu": p_spu, "k": k, "method": method}
            | {"learning_rate": rate, "seed": seed, "validation": rate + 0.1 * seed}
            | dict.fromkeys(("id", "rand", "rev", "id_01", "rand_01", "rev_01"), 0.5 + 0.1 * seed)
            for p_inv, p_spu in colored_digits.STRENGTHS
            for k in colored_digits.CLASSES
            for method in colored_digits.METHODS
            for rate in colored_digits.LEARNING_RATES
            for seed in range(2)
        ]
        assert len(colored_digits.table(rows).splitlines()) == 2 + 4 * 6 * 3
        assert len(colored_digits.by_rate(rows).splitlines()) == 2 + 3 * 3
        lines = colored_digits.differences(rows).splitlines()
        assert len(lines) == 2 + 4 * 6 + 1
        assert sum("| +" in line or "| -0" in line for line in lines) == 3
        assert set(colored_digits.chosen_rates(rows).values()) == {0.05}
        assert colored_digits.plot(rows, tmp_path / "plot.png").stat().st_size > 0

    def test_an_interval_is_students(self) -> None:
        values = [0.1, 0.4, 0.3, 0.35]
        found = estimate(values)
        low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
        assert found.mean == pytest.approx(np.mean(values))
        assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
