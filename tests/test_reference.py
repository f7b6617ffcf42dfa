"""Claims about `manifests/reference/*.csv` and the functions of `manifests.vocabulary`."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import unicodedata
from collections import Counter, defaultdict
from importlib import resources
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import vocabulary
from manifests.errors import CapError, UnknownNameError
from manifests.vocabulary import label_space, read_reference, resolve_background, resolve_license

ANIMALS = range(398)
DOGS = range(151, 269)
RANKS = {
    "phylum",
    "subphylum",
    "class",
    "order",
    "suborder",
    "infraorder",
    "superfamily",
    "epifamily",
    "family",
    "subfamily",
    "genus",
    "species",
    "subspecies",
}
# Family names end in -idae, superfamilies in -oidea, subfamilies in -inae: the zoological code.
ENDINGS = {"family": "idae", "superfamily": "oidea", "subfamily": "inae"}
# First words of ImageNet's English synonyms that look like a Latin binomial ("Indian cobra").
ENGLISH = {
    "African",
    "Alaska",
    "Alaskan",
    "American",
    "Angora",
    "Arabian",
    "Arctic",
    "Asiatic",
    "Cape",
    "Dungeness",
    "Egyptian",
    "European",
    "Gila",
    "Indian",
    "Komodo",
    "Madagascar",
    "Maine",
    "Nile",
    "Northern",
    "Persian",
    "Rocky",
    "Siamese",
}
CHECKPOINTS = {
    "laion400m_vit_b_16": ("LAION400M", "ViT/B/16"),
    "laion400m_vit_b_32": ("LAION400M", "ViT/B/32"),
    "laion400m_vit_l_14": ("LAION400M", "ViT/L/14"),
    "laion2b_vit_b_32": ("LAION2B", "ViT/B/32"),
    "openai_vit_b_32": ("OpenAI", "ViT/B/32"),
}
TABLES = (
    "imagenet1k",
    "animals",
    "taxa",
    "backgrounds",
    "counteranimal_classes",
    "counteranimal_results",
)


def taxa() -> dict[int, list[dict[str, str]]]:
    """Rows of taxa.csv by class index."""
    rows = defaultdict(list)
    for row in read_reference("taxa"):
        rows[int(row["class_index"])].append(row)
    return rows


def latin_names(index: int) -> list[str]:
    """Scientific names among ImageNet's synonyms of a class; dog breeds have none."""
    if index in DOGS:
        return []
    return [
        name
        for name in label_space("imagenet1k").synonyms[index]
        if re.fullmatch(r"[A-Z][a-z]+( [A-Za-z][a-z]+){1,2}", name)
        and name.split()[0] not in ENGLISH
    ]


def timm_info() -> Path:
    """Folder of ImageNet facts that timm ships; found without importing torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("timm is not installed; its list of WordNet ids is compared with ours")
    return Path(spec.origin).parent / "data" / "_info"


# The label space


def test_imagenet1k_has_1000_rows_in_the_order_of_sorted_wordnet_ids() -> None:
    rows = read_reference("imagenet1k")
    assert [int(row["index"]) for row in rows] == list(range(1000))
    ids = [row["wordnet_id"] for row in rows]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"n\d{8}", each) for each in ids)


def test_imagenet1k_names_are_open_clips_prompts() -> None:
    open_clip = pytest.importorskip("open_clip")
    assert label_space("imagenet1k").names == tuple(open_clip.IMAGENET_CLASSNAMES)


def test_imagenet1k_ids_and_synonyms_are_imagenets() -> None:
    folder = timm_info()
    space = label_space("imagenet1k")
    assert space.ids == tuple((folder / "imagenet_synsets.txt").read_text().split())
    lemmas = dict(
        line.split("\t", 1)
        for line in (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    )
    assert [", ".join(names) for names in space.synonyms] == [lemmas[each] for each in space.ids]


def test_imagenet1k_definitions_are_wordnets() -> None:
    folder = timm_info()
    space = label_space("imagenet1k")
    glosses = dict(
        line.split("\t", 1)
        for line in (folder / "imagenet_synset_to_definition.txt").read_text().splitlines()
    )
    assert list(space.definitions) == [glosses[each] for each in space.ids]


def test_a_definition_is_short_enough_to_read_beside_a_photo() -> None:
    lengths = [len(text) for text in label_space("imagenet1k").definitions]
    assert len(lengths) == 1000
    assert min(lengths) >= 13
    assert max(lengths) <= 220


@pytest.mark.parametrize(
    ("index", "definition"),
    [
        (10, "Eurasian finch"),
        (296, "white bear of Arctic regions"),
        (9, "fast-running African flightless bird with two-toed feet; largest living bird"),
    ],
)
def test_well_known_classes_have_their_gloss_without_usage_examples(
    index: int, definition: str
) -> None:
    assert label_space("imagenet1k").definitions[index] == definition


def test_the_notice_that_wordnets_licence_asks_for_is_beside_its_glosses() -> None:
    notice = resources.files("manifests") / "reference" / "NOTICE.md"
    assert "WordNet 3.0 Copyright 2006 by Princeton University." in notice.read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("ice bear", 296),
        ("polar_bear", 296),
        ("Polar  Bear", 296),
        ("Ursus Maritimus", 296),
        ("n02134084", 296),
        ("otter", 360),
        ("african_crocodile", 49),
        ("patas", 371),
        ("lesser panda", 387),
        ("crane bird", 134),
        ("water ouzel", 20),
        ("tree-frog", 31),
        ("Geoffroy's spider monkey", 381),
        ("n03773504", 657),
        ("n04008634", 744),
        ("n04355933", 836),
        ("n04356056", 837),
    ],
)
def test_a_class_is_found_by_name_snake_case_synonym_and_wordnet_id(text: str, index: int) -> None:
    assert label_space("imagenet1k").index_of(text) == index


@given(st.integers(0, 999))
def test_every_class_is_found_by_its_wordnet_id(index: int) -> None:
    space = label_space("imagenet1k")
    assert space.index_of(space.ids[index]) == index


@given(st.sampled_from(ANIMALS))
def test_every_animal_is_found_by_its_name_in_snake_case(index: int) -> None:
    space = label_space("imagenet1k")
    assert space.index_of(space.names[index].upper().replace(" ", "_")) == index


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("crane", ["crane bird", "construction crane"]),
        ("panther", ["cougar", "jaguar"]),
        ("Sus scrofa", ["pig", "wild boar"]),
        ("polecat", ["European polecat", "skunk"]),
    ],
)
def test_an_ambiguous_synonym_is_refused_with_its_candidates(
    text: str, candidates: list[str]
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        label_space("imagenet1k").index_of(text)
    assert all(repr(name) in str(caught.value) for name in candidates)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("pelicann", "pelican"), ("African elefant", "African bush elephant"), ("oter", "otter")],
)
def test_an_unknown_class_is_refused_with_the_nearest_names(text: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"nearest: .*{nearest}"):
        label_space("imagenet1k").index_of(text)


def test_an_unknown_class_unlike_any_other_is_refused_without_a_guess() -> None:
    with pytest.raises(UnknownNameError) as caught:
        label_space("imagenet1k").index_of("\N{SNOWMAN}")
    assert "nearest" not in str(caught.value)


def test_two_label_spaces_with_the_same_names_in_another_order_have_other_digests(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text("name,synonyms\nlion,king of beasts|Panthera leo\ntiger,\n")
    (tmp_path / "b.csv").write_text("name\ntiger\nlion\n")
    first, second = label_space("a.csv", tmp_path), label_space("b.csv", tmp_path)
    assert (first.name, first.names, len(first)) == ("a", ("lion", "tiger"), 2)
    assert first.index_of("panthera_leo") == 0
    assert first.digest != second.digest


def test_a_label_space_file_may_hold_prompts_and_definitions(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "name,prompts,definition\n"
        "lion,a photo of a lion|a lion at rest,a large cat\n"
        "tiger,a photo of a tiger,\n"
    )
    (tmp_path / "b.csv").write_text("name\nlion\ntiger\n")
    full, bare = label_space("a.csv", tmp_path), label_space("b.csv", tmp_path)
    assert full.prompts == (("a photo of a lion", "a lion at rest"), ("a photo of a tiger",))
    assert full.definitions == ("a large cat", "")
    assert (bare.prompts, bare.definitions) == ((), ("", ""))
    assert full.digest == bare.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\nlion\n", "column 'name'"),
        ("name,prompts\nlion,a lion\ntiger,\n", "prompts for some classes only"),
        ("name,prompts\nlion,a photo of {}\n", "prompt with a brace"),
        ("name\n", "at least one row"),
        ("name\nlion\nlion\n", "doubled name"),
        ("name,synonyms\n,lion\n", "empty"),
    ],
)
def test_a_label_space_file_with_a_flaw_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(CapError, match=message):
        label_space("classes.csv", tmp_path)


@pytest.mark.parametrize("name", ["imagenet1k", "backgrounds"])
def test_a_label_space_file_called_as_another_label_space_is_refused(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / f"{name}.csv").write_text("name\nlion\ntiger\n")
    with pytest.raises(CapError, match=f"would be called {name}, .*; rename the file"):
        label_space(f"{name}.csv", tmp_path)


def test_a_copy_of_a_label_space_may_keep_its_name(tmp_path: Path) -> None:
    names = label_space("backgrounds").names
    (tmp_path / "backgrounds.csv").write_text("\n".join(["name", *names]))
    assert label_space("backgrounds.csv", tmp_path).digest == label_space("backgrounds").digest


def test_a_class_is_contradicted_by_names_of_others_and_by_none_of_its_own():
    space = label_space("imagenet1k")
    for index, names in enumerate(zip(space.names, space.ids, strict=True)):
        for name in (*names, *space.synonyms[index]):
            assert space.calls(index, name)
            assert not space.contradicts(index, name)
    assert space.contradicts(0, "goldfish")
    assert space.contradicts(1000, "unheard of")
    assert not space.contradicts(0, "unheard of")
    assert not space.calls(0, "unheard of")


def test_a_label_space_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,synonyms\nlion,king\ntiger,\n", "utf-8-sig")
    assert label_space("a.csv", tmp_path).names == ("lion", "tiger")


@pytest.mark.parametrize(("written", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_however_their_accents_are_encoded(
    tmp_path: Path, written: str, asked: str
) -> None:
    names = ["crème-brûlée frog", "Ångström gull", "lion"]
    rows = "\n".join(["name", *names])
    (tmp_path / "a.csv").write_text(unicodedata.normalize(written, rows), "utf-8")
    space = label_space("a.csv", tmp_path)
    for index, name in enumerate(names):
        assert space.index_of(unicodedata.normalize(asked, name)) == index
        assert space.index_of(unicodedata.normalize(asked, name.upper())) == index


def test_a_missing_label_space_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(CapError, match="absent"):
        label_space("absent.csv", tmp_path)


# Taxa


def test_every_animal_class_has_a_taxa_row_with_its_own_name_in_order() -> None:
    rows = read_reference("taxa")
    indices = [int(row["class_index"]) for row in rows]
    assert indices == sorted(indices)
    assert set(indices) == set(ANIMALS)
    names = label_space("imagenet1k").names
    assert all(row["class_name"] == names[int(row["class_index"])] for row in rows)


def test_a_class_has_one_status_and_only_a_group_has_several_taxa() -> None:
    for rows in taxa().values():
        statuses = {row["status"] for row in rows}
        assert len(statuses) == 1
        assert statuses <= {"exact", "group", "none"}
        assert len(rows) == 1 or statuses == {"group"}


def test_a_class_with_a_status_of_exact_or_group_names_taxa_and_ranks() -> None:
    for row in read_reference("taxa"):
        if row["status"] == "none":
            continue
        assert re.fullmatch(r"[A-Z][a-z]+( [a-z]+){0,2}", row["taxon"]), row
        assert row["rank"] in RANKS, row
        words = {"species": 2, "subspecies": 3}.get(row["rank"], 1)
        assert len(row["taxon"].split()) == words, row
        assert row["taxon"].endswith(ENDINGS.get(row["rank"], "")), row


def test_a_class_without_a_taxon_says_why() -> None:
    for row in read_reference("taxa"):
        if row["status"] == "none":
            assert (row["taxon"], row["rank"]) == ("", ""), row
            assert row["note"], row


def test_every_row_of_a_group_says_what_part_of_the_class_it_is() -> None:
    assert all(row["note"] for row in read_reference("taxa") if row["status"] == "group")


def test_dog_breeds_domestic_cats_extinct_animals_and_tusker_have_no_taxon() -> None:
    without = {index for index, rows in taxa().items() if rows[0]["status"] == "none"}
    assert without == {*DOGS, *range(281, 286), 51, 69, 101, 332, 339}


def test_no_taxon_is_asked_for_twice_but_for_cock_and_hen() -> None:
    counts = Counter(row["taxon"] for row in read_reference("taxa") if row["taxon"])
    assert {name for name, count in counts.items() if count > 1} == {"Gallus gallus domesticus"}


def test_no_taxon_of_a_class_lies_within_a_genus_or_species_of_another_class() -> None:
    owners = {row["taxon"]: row["class_index"] for row in read_reference("taxa") if row["taxon"]}
    # Alaskan wolves are wolves, as also_correct in animals.csv says.
    inside = {
        (name, wider)
        for name, owner in owners.items()
        for wider in (name.rsplit(" ", 1)[0], name.split()[0])
        if wider != name and owners.get(wider, owner) != owner
    }
    assert inside == {
        ("Canis lupus tundrarum", "Canis lupus"),
        ("Canis lupus arctos", "Canis lupus"),
    }


def test_every_difference_from_imagenets_latin_name_is_explained_in_the_note() -> None:
    compared = 0
    for index, rows in taxa().items():
        asked = {row["taxon"] for row in rows}
        notes = " ".join(row["note"] for row in rows)
        for name in latin_names(index):
            compared += 1
            assert name in asked or name in notes, (index, name, asked)
    assert compared == 131


def test_an_exact_species_that_imagenet_names_otherwise_is_noted_as_a_change_of_name() -> None:
    for index, rows in taxa().items():
        names = latin_names(index)
        if names and rows[0]["status"] == "exact" and rows[0]["taxon"] not in names:
            assert rows[0]["note"].startswith("ImageNet"), rows[0]


@pytest.mark.parametrize(
    ("index", "taxon", "rank"),
    [
        (9, "Struthio camelus", "species"),
        (12, "Haemorhous mexicanus", "species"),
        (30, "Lithobates catesbeianus", "species"),
        (54, "Heterodon platirhinos", "species"),
        (81, "Lagopus", "genus"),
        (128, "Ciconia nigra", "species"),
        (279, "Vulpes lagopus", "species"),
        (286, "Puma concolor", "species"),
        (299, "Suricata suricatta", "species"),
        (309, "Anthophila", "epifamily"),
        (323, "Danaus plexippus", "species"),
    ],
)
def test_well_known_classes_have_the_taxon_that_inaturalist_uses(
    index: int, taxon: str, rank: str
) -> None:
    assert [(row["taxon"], row["rank"]) for row in taxa()[index]] == [(taxon, rank)]


def test_vulture_holds_new_world_and_old_world_vultures() -> None:
    assert {"Cathartidae", "Gyps", "Neophron"} <= {row["taxon"] for row in taxa()[23]}


def test_recorded_answers_of_inaturalist_give_our_taxa_the_same_rank(shared: Path) -> None:
    seen: dict[str, str] = {}

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("name"), str) and isinstance(value.get("rank"), str):
                seen[value["name"]] = value["rank"]
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    for path in sorted((shared / "inaturalist" / "api").glob("*.json")):
        walk(json.loads(path.read_text("utf-8")))
    ours = {row["taxon"]: row["rank"] for row in read_reference("taxa")}
    common = ours.keys() & seen.keys()
    assert {"Danaus plexippus", "Curculionoidea"} <= common
    assert {name: ours[name] for name in common} == {name: seen[name] for name in common}


# Super-classes and overlapping labels


def test_every_animal_class_has_one_super_class_and_every_super_class_one_rank() -> None:
    rows = read_reference("animals")
    names = label_space("imagenet1k").names
    assert [(int(row["class_index"]), row["class_name"]) for row in rows] == [
        (index, names[index]) for index in ANIMALS
    ]
    ranks = defaultdict(set)
    for row in rows:
        assert re.fullmatch(r"[A-Z][a-z]+", row["superclass"]), row
        assert row["superclass_rank"] in RANKS | {"clade"}, row
        assert row["superclass"].endswith(ENDINGS.get(row["superclass_rank"], "")), row
        ranks[row["superclass"]].add(row["superclass_rank"])
    assert all(len(each) == 1 for each in ranks.values())


def test_dogs_wolves_and_foxes_share_a_super_class_and_cats_do_not() -> None:
    groups = [row["superclass"] for row in read_reference("animals")]
    assert {groups[index] for index in (*DOGS, 269, 275, 280)} == {"Canidae"}
    assert {groups[index] for index in range(281, 294)} == {"Felidae"}


def test_a_taxon_that_is_also_a_super_class_has_the_same_rank_in_both_tables() -> None:
    wider = {row["superclass"]: row["superclass_rank"] for row in read_reference("animals")}
    for row in read_reference("taxa"):
        if row["taxon"] in wider:
            assert wider[row["taxon"]] == row["rank"], row


def test_also_correct_names_other_classes_in_order_and_says_why() -> None:
    for row in read_reference("animals"):
        others = [int(each) for each in row["also_correct"].split("|") if each]
        assert others == sorted(set(others))
        assert int(row["class_index"]) not in others
        assert all(0 <= other < 1000 for other in others)
        assert bool(row["also_correct_note"]) == bool(others), row


@pytest.mark.parametrize(
    ("index", "others"),
    [
        (101, "385|386"),
        (385, "101"),
        (386, "101"),
        (348, "349"),
        (349, "348"),
        (248, "250"),
        (250, "248"),
        (7, ""),
        (291, ""),
    ],
)
def test_labels_known_to_overlap_are_listed(index: int, others: str) -> None:
    assert read_reference("animals")[index]["also_correct"] == others


# Backgrounds


def test_backgrounds_are_the_papers_14_labels_in_its_order() -> None:
    assert [row.name for row in vocabulary.backgrounds()] == [
        "ground",
        "water",
        "earth",
        "sand",
        "snow",
        "grass",
        "human",
        "sky",
        "road",
        "rock",
        "shrub",
        "indoor",
        "tree",
        "outdoor",
    ]


def test_every_background_has_a_definition_of_its_own_that_is_short_enough_to_read() -> None:
    definitions = [row.definition for row in vocabulary.backgrounds()]
    assert len(set(definitions)) == len(definitions)
    assert all(20 < len(each) <= 160 and each.endswith(".") for each in definitions)


def test_no_alias_means_two_backgrounds() -> None:
    words = [
        word.casefold() for row in vocabulary.backgrounds() for word in (row.name, *row.aliases)
    ]
    assert len(words) == len(set(words))
    assert all(row.aliases for row in vocabulary.backgrounds())


@pytest.mark.parametrize(
    ("text", "label"),
    [("hand", "human"), ("Hands", "human"), ("SKY", "sky"), ("leaf_litter", "ground")],
)
def test_a_background_is_found_by_label_and_alias(text: str, label: str) -> None:
    assert resolve_background(text) == label


def test_an_unknown_background_is_refused_with_the_nearest_and_all_labels() -> None:
    with pytest.raises(UnknownNameError, match=r"nearest: grass.*ground, water, earth"):
        resolve_background("gras")


def test_backgrounds_are_a_label_space_too() -> None:
    space = label_space("backgrounds")
    assert len(space) == 14
    assert space.names[space.index_of("hand")] == "human"
    assert space.prompts == tuple(row.prompts for row in vocabulary.backgrounds())
    assert space.definitions == tuple(row.definition for row in vocabulary.backgrounds())


def test_a_background_has_two_to_four_prompts_that_name_no_class() -> None:
    prompts = [row.prompts for row in vocabulary.backgrounds()]
    assert all(2 <= len(texts) <= 4 for texts in prompts)
    every = [text for texts in prompts for text in texts]
    assert len(set(every)) == len(every)
    assert all(text.startswith("a photo of a") and "an animal" in text for text in every)


# Licences


def test_a_licence_is_found_in_any_spelling_and_an_empty_one_is_unknown() -> None:
    assert resolve_license(" CC BY ") == "cc-by"
    assert resolve_license("") == "unknown"
    assert {"cc0", "cc-by"} <= set(vocabulary.default_licenses())
    assert "unknown" not in vocabulary.default_licenses()


def test_an_unknown_licence_is_refused_with_the_codes() -> None:
    with pytest.raises(UnknownNameError, match="cc-by-nc"):
        resolve_license("beerware")


# CounterAnimal


def test_counteranimal_has_45_animal_classes_with_two_known_backgrounds_each() -> None:
    rows = read_reference("counteranimal_classes")
    indices = [int(row["class_index"]) for row in rows]
    assert len(rows) == 45
    assert indices == sorted(set(indices))
    assert set(indices) <= set(ANIMALS)
    labels = {row.name for row in vocabulary.backgrounds()}
    names = label_space("imagenet1k").names
    for row in rows:
        assert row["class_name"] == names[int(row["class_index"])]
        assert {row["common_background"], row["counter_background"]} <= labels
        assert row["common_background"] != row["counter_background"]


def test_every_counteranimal_class_can_be_collected() -> None:
    statuses = {
        taxa()[int(row["class_index"])][0]["status"]
        for row in read_reference("counteranimal_classes")
    }
    assert statuses == {"exact", "group"}


def test_class_wise_accuracies_are_fractions() -> None:
    for row in read_reference("counteranimal_classes"):
        for checkpoint in CHECKPOINTS:
            assert 0 < float(row[f"{checkpoint}_common"]) <= 1
            assert 0 <= float(row[f"{checkpoint}_counter"]) < 1


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_class_wise_accuracies_average_to_table_3(checkpoint: str) -> None:
    published = {
        (row["pretrained"], row["backbone"]): row
        for row in read_reference("counteranimal_results")
        if row["table"] == "3"
    }[CHECKPOINTS[checkpoint]]
    classes = read_reference("counteranimal_classes")
    for group in ("common", "counter"):
        mean = fmean(float(row[f"{checkpoint}_{group}"]) for row in classes)
        assert mean == pytest.approx(float(published[group]), abs=0.002)


def test_the_reference_models_published_drop_is_30_points() -> None:
    (row,) = (
        row
        for row in read_reference("counteranimal_results")
        if (row["table"], row["backbone"], row["pretrained"]) == ("3", "ViT/B/32", "LAION400M")
    )
    assert (row["common"], row["counter"], row["drop"]) == ("0.6713", "0.3695", "0.3018")


def test_published_drops_are_common_minus_counter_but_for_three_misprints_in_the_paper() -> None:
    rows = read_reference("counteranimal_results")
    assert {row["table"] for row in rows} == {"3", "4", "10", "11", "12", "13", "14"}
    misprints = []
    for row in rows:
        common, counter, drop = (float(row[key]) for key in ("common", "counter", "drop"))
        assert 0 < counter < common < 1
        # Each figure is rounded to 0.01 points on its own.
        if abs(drop - (common - counter)) > 0.00016:
            misprints.append((row["table"], row["backbone"], row["pretrained"]))
    assert misprints == [
        ("10", "ViT/B/16", "LAION400M"),
        ("10", "ViT/G/14", "LAION2B"),
        ("14", "RN50", "ImageNet-1K"),
    ]


def test_counteranimal_figures_are_the_shared_ones(shared: Path) -> None:
    folder = shared / "counteranimal"
    with (folder / "classes.tsv").open(encoding="utf-8", newline="") as handle:
        source = list(csv.DictReader(handle, delimiter="\t"))
    ours = read_reference("counteranimal_classes")
    assert len(source) == len(ours)
    for theirs, row in zip(source, ours, strict=True):
        assert theirs["imagenet_index"] == row["class_index"]
        assert theirs["name"] == row["class_name"]
        figures = [float(value) / 100 for value in list(theirs.values())[5:]]
        assert [float(value) for value in list(row.values())[4:]] == pytest.approx(figures)
    with (folder / "published_results.tsv").open(encoding="utf-8", newline="") as handle:
        source = list(csv.DictReader(handle, delimiter="\t"))
    ours = read_reference("counteranimal_results")
    assert len(source) == len(ours)
    for theirs, row in zip(source, ours, strict=True):
        assert theirs["backbone"].replace("\N{MULTIPLICATION SIGN}", "x") == row["backbone"]
        for key in ("common", "counter", "drop"):
            assert float(row[key]) == pytest.approx(float(theirs[key]) / 100)


# All tables


@pytest.mark.parametrize("name", TABLES)
def test_a_reference_table_is_plain_csv_without_stray_spaces(name: str) -> None:
    rows = read_reference(name)
    columns = list(rows[0])
    for row in rows:
        assert list(row) == columns, row
        for value in row.values():
            assert value is not None, row
            assert value.isascii(), row
            assert value == " ".join(value.split()), row
