"""The report tells what the tables hold, to a person with a browser and nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from clusters import BEARS, discover, predict
from clusters import RUN as DISCOVERED
from conftest import cap, save_photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser
from report_tables import BACKGROUNDS, OTHER, PAIR, RUN, invent

from annotation.agreement import agreement
from annotation.parameters import AgreementParameters
from manifests.errors import CapError
from manifests.metrics import evaluate_groups, wilson
from manifests.photos import inspect_photo
from manifests.progress import Progress
from manifests.schema import ANNOTATIONS, DUPLICATES, GROUPS, LABELS, PAIRS, PHOTOS, RESULTS, SPLIT
from manifests.tables import from_rows, write_table
from manifests.vocabulary import read_reference
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters, ReportParameters
from pipeline.report import report
from pipeline.report.collection import FATES, copies
from pipeline.report.strips import PHOTOS_AT_MOST, plan_strips

AT_MOST = 5_000_000

HOSTILE = (
    "<script>document.title = 'ran'</script>",
    '"><img src=x onerror="document.title = \'ran\'">',
    "'</style></title><script>document.title = 'ran'</script>",
    "javascript:document.title='ran'",
    "</svg><svg onload=\"document.title = 'ran'\">",
    "{{ 7 * 7 }} $\\frac{1}{0}$ &lt;b&gt; <!-- ",
    "\u202e\u0645\u0631\u062d\u0628\u0627\u202d \u9d5c \U0001f9a6 \x07",
    "long" * 3000,
)


def hostile(kind: str, number: int) -> str:
    """Text that would break a page that does not escape it; still one of a kind for each row."""
    return f"{HOSTILE[number % len(HOSTILE)]} {kind} {number}"


def told(workspace: Workspace, **parameters) -> dict:
    outcome = report(workspace, ReportParameters(**parameters), Progress())
    return {"fresh": outcome.fresh, "text": outcome.text, **outcome.facts}


class Page(HTMLParser):
    """A page as a reader meets it: tables by caption, marked facts, titles, ids and all words."""

    VOID = frozenset({"meta", "link", "img", "br", "use", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.facts: dict[str, str] = {}
        self.titles: list[str] = []
        self.ids: list[str] = []
        self.articles: dict[str, str] = {}
        self._rows: list[list[str]] = []
        self._caption = ""
        self._open: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if "title" in attributes:
            self.titles.append(attributes["title"])
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in {"td", "th"}:
            self._rows[-1].append("")
        elif tag == "small":
            self._say(" ")
        if tag not in self.VOID:
            self._open.append((tag, attributes))

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass
        if tag == "table":
            self.tables[self._caption.strip()] = [
                [" ".join(cell.split()) for cell in row] for row in self._rows
            ]
        if tag in {"p", "li", "h3", "td", "th", "summary", "figcaption"}:
            self._say(" ")

    def handle_data(self, data: str) -> None:
        self._say(data)

    def _say(self, data: str) -> None:
        within = [tag for tag, _ in self._open]
        if "style" in within:
            return
        if within and within[-1] == "title" and "svg" in within:
            self.titles.append(data)
            return
        if "caption" in within:
            self._caption += data
        elif {"td", "th"} & set(within):
            self._rows[-1][-1] += data
        self.words += data
        for tag, attributes in self._open:
            if "data-fact" in attributes:
                name = attributes["data-fact"]
                self.facts[name] = self.facts.get(name, "") + data
            if tag == "article":
                self.articles[attributes["id"]] = self.articles.get(attributes["id"], "") + data


def page_of(workspace: Workspace, **parameters) -> Page:
    return Page(Path(told(workspace, **parameters)["out"]).read_text("utf-8"))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(drop: float) -> str:
    return f"{100 * drop:.1f}".replace("-0.0", "0.0").replace("-", "\N{MINUS SIGN}")


def with_interval(correct: int, photos: int) -> tuple[str, str]:
    """An accuracy, and its interval and number of photos, as the page writes them."""
    low, high = (100 * float(end) for end in wilson(np.asarray(correct), np.asarray(photos)))
    return percent(correct / photos), f"{low:.1f} to {high:.1f} of {photos}"


def rows_of(workspace: Workspace, table: str) -> list[dict]:
    return workspace.read(table).to_pylist()


@pytest.fixture(scope="module", params=["controlled", "paper"])
def rule(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def invented(rule: str, tmp_path_factory) -> Workspace:
    """A workspace with every table and an agreement, and its report."""
    workspace = invent(tmp_path_factory.mktemp("invented") / rule, classes=7, rule=rule)
    agreement(workspace, AgreementParameters(resamples=20), Progress())
    return workspace


@pytest.fixture(scope="module")
def page(invented: Workspace) -> Page:
    return page_of(invented)


def fates_of(workspace: Workspace) -> dict[str, Counter]:
    """What became of each photo, by class; told apart in another order than the report does."""
    copies = {r["photo_id"] for r in rows_of(workspace, "duplicates") if r["relation"] == "near"}
    labels = {r["photo_id"]: r for r in rows_of(workspace, "labels")}
    in_split = {r["photo_id"] for r in rows_of(workspace, "split")}
    counts: dict[str, Counter] = {}
    for photo in rows_of(workspace, "photos"):
        label = labels.get(photo["photo_id"])
        if photo["photo_id"] in in_split:
            fate = "split"
        elif label is not None:
            fate = {"reject": "rejected", "keep": "tagged"}[label["decision"]]
        elif photo["photo_id"] in copies:
            fate = "duplicate"
        else:
            fate = "failed" if photo["status"] == "failed" else "waiting"
        counts.setdefault(photo["class_name"], Counter())[fate] += 1
    return counts


def test_what_was_collected_and_lost_follows_from_the_tables(invented, page):
    counts = fates_of(invented)
    total = sum(counts.values(), Counter())
    shown = [fate.key for fate in FATES if total[fate.key]]
    assert {"split", "tagged", "rejected", "duplicate", "failed"} == set(shown)
    for key in shown:
        assert page.facts[f"fate-{key}"] == str(total[key])
    _, *rows = page.tables["Photos of each class by what became of them"]
    assert rows == [
        [name, "", str(count.total()), *(str(count[key]) for key in shown)]
        for name, count in sorted(counts.items())
    ]
    assert page.facts["asked"] == str(total.total())
    assert page.facts["failed-or-copy"] == str(total["failed"] + total["duplicate"])
    assert page.facts["kept"] == str(total["split"] + total["tagged"])
    failed = Counter(r["error"] for r in rows_of(invented, "photos") if r["status"] == "failed")
    for error, count in failed.items():
        assert f"{count}: {error}" in page.words
    answers = rows_of(invented, "annotations")
    rejected = {r["photo_id"] for r in answers if r["decision"] == "reject"}
    assert f"{len(rejected)}: Too blurred, too dark" in page.words
    observers = {r["creator_id"] for r in rows_of(invented, "photos") if r["status"] == "ok"}
    assert f"by {len(observers)} photographers" in page.words


def test_copies_are_counted_and_shown_with_their_distance(invented, page):
    near = [r for r in rows_of(invented, "duplicates") if r["relation"] == "near"]
    assert page.facts["near"] == str(len(near))
    assert page.facts["exact"] == "0"
    furthest = sorted((r["distance"] for r in near), reverse=True)[:6]
    assert re.findall(r"distance (\d+)", page.words) == [str(distance) for distance in furthest]


def test_copies_of_what_is_no_photo_of_ours_are_counted_and_not_shown():
    rows = [
        {"photo_id": name, "status": "ok", "relation": relation, "keeper": keeper, "distance": 1}
        for name, relation, keeper in (
            ("a", "near", "b"),
            ("b", "keeper", "b"),
            ("c", "near", "against:test/1.jpg"),
            ("gone", "exact", "b"),
        )
    ]
    found = copies(from_rows(rows, DUPLICATES.schema), {"a", "b", "c"})
    assert (found.near, found.exact) == (2, 1)
    assert found.examples == (("a", "b", 1),)


def test_agreement_is_what_was_measured(invented, page):
    found = json.loads((invented.root / "results" / "agreement.json").read_bytes())
    (table,) = (rows for name, rows in page.tables.items() if "alpha" in name)
    _, *rows = table
    overall = [a for a in found["agreement"] if not a["class_name"] and not a["annotators"]]
    alphas = [a["coefficients"][2] for a in overall]
    assert [row[1:5] for row in rows] == [
        [str(a["photos"]), *(f"{a[name]:.3f}" for name in ("value", "ci_low", "ci_high"))]
        for a in alphas
    ]
    assert f"{found['answers']} first answers to {found['photos']} photos" in page.words
    assert f"{len(found['disputes'])} photos are in dispute" in page.words
    names, counts = found["confusion"]["backgrounds"], found["confusion"]["counts"]
    for background in BACKGROUNDS:
        one, other = names.index("rock"), names.index(background)
        assert re.search(rf"rock and {background} {counts[one][other]} times", page.words)
    people = Counter(r["annotators"] for r in rows_of(invented, "labels"))
    assert f"{people[2]} photos were tagged by 2 people" in page.words


def judged(workspace: Workspace, run: str, index: int, background: str) -> list[dict]:
    """The photos of a group with what the run said of them."""
    said = {r["photo_id"]: r for r in rows_of(workspace, f"predictions/{run}")}
    kept = {r["photo_id"]: r["background"] for r in rows_of(workspace, "labels")}
    return [
        said[r["photo_id"]]
        for r in rows_of(workspace, "photos")
        if r["class_index"] == index and kept.get(r["photo_id"]) == background
    ]


def test_every_class_has_its_accuracies_drops_and_p_values(invented, page, rule):
    _, *rows = page.tables[
        "Pair, accuracy with interval and number of photos, and drop in points, of every class"
    ]
    by_name = {row[0]: row for row in rows}
    pairs = [pair for pair in rows_of(invented, "pairs") if pair["run"] == RUN]
    assert len(rows) == len(pairs)
    part = "test_" if rule == "controlled" else ""
    for pair in pairs:
        expected = [pair["class_name"]]
        for group, background in PAIR.items():
            photos = pair[f"{group}_{part}photos"]
            correct = round(photos * pair[f"{group}_{part}accuracy"])
            expected += [background, " ".join(with_interval(correct, photos))]
        expected.append(points(pair["drop"]))
        if rule == "controlled":
            ends = points(pair["drop_ci_low"]), points(pair["drop_ci_high"])
            expected.append(f"{points(pair['drop_honest'])} {ends[0]} to {ends[1]}")
            expected += [f"{pair['p_value']:.2g}", f"{pair['q_value']:.2g}"]
        else:
            expected += ["", ""]
        assert by_name[pair["class_name"]][:-1] == expected
        assert by_name[pair["class_name"]][-1] == ("yes" if pair["selected"] else pair["reason"])
    assert page.facts["selected"] == str(sum(pair["selected"] for pair in pairs))
    drops = [pair["drop_honest" if part else "drop"] for pair in pairs if pair["selected"]]
    shown = [row[6 if part else 5].split()[0] for row in rows if row[-1] == "yes"]
    assert shown == [points(drop) for drop in sorted(drops, reverse=True)]


def test_beside_the_photos_stand_the_numbers_of_their_groups(invented, page, rule):
    others = {p["class_index"]: p for p in rows_of(invented, "pairs") if p["run"] == OTHER}
    for pair in (p for p in rows_of(invented, "pairs") if p["run"] == RUN):
        words = " ".join(page.articles[f"class-{pair['class_index']}"].split())
        for group, background in PAIR.items():
            photos = judged(invented, RUN, pair["class_index"], background)
            wrong = Counter(r["predicted_name"] for r in photos if not r["correct"])
            for name, count in wrong.items():
                assert f"{name} {count}\N{MULTIPLICATION SIGN}" in words
            assert f"{group}: {background}" in words
            assert f"{len(photos) - 6} more are not shown" in words or len(photos) <= 6
            for part in ("", "test_") if rule == "controlled" else ("",):
                number = pair[f"{group}_{part}photos"]
                share = pair[f"{group}_{part}accuracy"]
                ends = with_interval(round(share * number), number)[1].replace(" of", ") of")
                assert f"{percent(share)} ({ends}" in words
        drop = "drop_honest" if rule == "controlled" else "drop"
        assert f"rop {points(pair[drop])} " in words
        assert points(others[pair["class_index"]][drop]) in words.partition("Other models")[2]
        assert ("No other model shows this pair" in words) == bool(pair["only_its_own"])


def test_the_headline_is_the_mean_over_classes_in_fresh_photos(invented, page, rule):
    split = rows_of(invented, "split")
    rows = [r for r in split if rule == "paper" or r["partition"] == "test"]
    said = {r["photo_id"]: r["correct"] for r in rows_of(invented, f"predictions/{RUN}")}
    means = {}
    for group in PAIR:
        by_class: dict[int, list[bool]] = {}
        for row in rows:
            if row["group"] == group:
                by_class.setdefault(row["class_index"], []).append(said[row["photo_id"]])
        means[group] = np.mean([np.mean(right) for right in by_class.values()])
        assert page.facts[group].replace("\xa0", " ") == percent(means[group])
    assert page.facts["drop"] == points(means["common"] - means["counter"])
    found = evaluate_groups(
        np.array([said[r["photo_id"]] for r in rows]),
        np.array([r["class_index"] for r in rows]),
        np.array([r["group"] for r in rows]),
        np.unique([r["creator_id"] for r in rows], return_inverse=True)[1],
        {r["class_index"]: r["class_name"] for r in rows},
    )
    ends = found.drop_ci_low, found.drop_ci_high
    assert page.facts["drop-interval"] == " to ".join(map(points, ends))
    assert page.facts["split"] == str(len(split))
    assert page.facts["averaged"] == page.facts["selected"]
    assert ("These are fresh photos" in page.words) == (rule == "controlled")
    assert "Not between the same classes" not in page.words


def keep_fresh(workspace: Workspace, *places: tuple[str, str]) -> None:
    """Let no photos of the split be fresh but those of some classes' groups."""
    rows = rows_of(workspace, "split")
    for row in rows:
        if (row["class_name"], row["group"]) not in places:
            row["partition"] = "validation"
    write_table(workspace.table_path("split"), from_rows(rows, SPLIT.schema), SPLIT)


def test_the_headline_counts_the_classes_that_have_fresh_photos(tmp_path):
    workspace = invent(tmp_path / "w", classes=5)
    assert page_of(workspace).facts["averaged"] == "4"
    names = sorted({row["class_name"] for row in rows_of(workspace, "split")})
    keep_fresh(workspace, *((name, group) for name in names[:2] for group in PAIR))
    page = page_of(workspace)
    assert page.facts["averaged"] == "2 of 4"
    assert "2 of 4 selected classes: the others have no such photos. These are fresh" in page.words
    assert "Not between the same classes" not in page.words


@pytest.mark.parametrize("halves", [1, 2])
def test_a_drop_between_different_classes_is_told(tmp_path, halves):
    workspace = invent(tmp_path / "w", classes=2)
    one, other = sorted({row["class_name"] for row in rows_of(workspace, "split")})
    whole = [(other, "common")] if halves == 1 else []
    keep_fresh(workspace, (one, "common"), (other, "counter"), *whole)
    page = page_of(workspace)
    named = ", ".join((one, other)[:halves])
    assert (
        f"Not between the same classes. {halves} of 2 classes have fresh photos of one group only "
        f"({named})"
    ) in page.words


def test_photos_are_called_fresh_only_where_the_headline_is_of_such(tmp_path):
    workspace = invent(tmp_path / "w", classes=3)
    keep_fresh(workspace)
    page = page_of(workspace)
    assert "honest drop" in page.words
    assert "These are fresh photos" not in page.words
    assert "These are the very photos that chose the backgrounds" in page.words
    assert "The model that chose the backgrounds lies lower than it should" in page.words


def test_the_heat_map_holds_the_groups_table(invented, page):
    head, *rows = page.tables["Accuracy by class and background"]
    own = {
        (r["class_name"], r["background"]): r
        for r in rows_of(invented, "groups")
        if r["run"] == RUN
    }
    assert sorted(head[1:]) == sorted(BACKGROUNDS)
    for name, *cells in rows:
        for background, cell in zip(head[1:], cells, strict=True):
            group = own.pop((name, background))
            assert cell == f"{100 * group['correct'] / group['photos']:.0f} {group['photos']}"
            interval = f"{percent(group['ci_low'])} to {percent(group['ci_high'])}"
            assert interval in [title.replace("\xa0", " ") for title in page.titles]
    assert not own


MODELS = (
    "Accuracy of models in the two groups, their drop, and how far they lie above the line, in "
    "points"
)


def above(line: np.ndarray, common: float, counter: float) -> float:
    """How far a model lies above a line of logits."""
    return counter - 1 / (1 + np.exp(-np.polyval(line, np.log(common / (1 - common)))))


@pytest.fixture(scope="module")
def imagenet_line() -> np.ndarray:
    """Slope and intercept of the line through the paper's ImageNet models."""
    rows = [r for r in read_reference("counteranimal_results") if r["table"] == "4"]
    common, counter = (np.array([float(r[name]) for r in rows]) for name in PAIR)
    return np.polyfit(np.log(common / (1 - common)), np.log(counter / (1 - counter)), 1)


def test_models_stand_where_their_accuracies_say(invented, page, imagenet_line):
    _, *rows = page.tables[MODELS]
    assert [row[:2] for row in rows[:2]] == [[RUN, "this page"], [OTHER, "this page"]]
    assert rows[0][2] == page.facts["common"].replace("\xa0", " ")
    assert rows[0][3] == page.facts["counter"].replace("\xa0", " ")
    measured = [float(cell.rstrip(" %")) / 100 for cell in rows[0][2:4]]
    distance = float(rows[0][5].replace("\N{MINUS SIGN}", "-")) / 100
    assert distance == pytest.approx(above(imagenet_line, *measured), abs=0.003)
    published = []
    for row in read_reference("counteranimal_results"):
        if row["table"] in {"3", "4"}:
            common, counter = float(row["common"]), float(row["counter"])
            distance = above(imagenet_line, common, counter)
            cells = [percent(common), percent(counter), points(common - counter), points(distance)]
            published.append(cells)
    assert [row[2:] for row in rows[2:]] == published
    assert len(published) == 28 + 15
    for name, _, common, counter, *_ in rows:
        assert f"{name}\ncommon {common}, counter {counter}" in page.titles


def test_models_that_were_evaluated_stand_beside_the_runs(tmp_path, imagenet_line):
    workspace = invent(tmp_path / "w", classes=3)
    told(workspace)
    rows = [
        {
            "evaluation": f"{model}-{partition}",
            "class_name": "*",
            "measure": "accuracy",
            "group": group,
            "photos": 50,
            "value": value,
            "ci_low": value - 0.1,
            "ci_high": value + 0.1,
            "model": model,
            "model_digest": model,
            "family": "timm",
            "release": "zoo",
            "release_digest": "0" * 64,
            "label_space": space,
            "label_space_digest": "1" * 64,
            "partition": partition,
            "chose_pairs": False,
            "resamples": 100,
            "seed": 0,
        }
        for model, partition, space, common in (
            ("timm:one", "test", "imagenet1k", 0.8),
            ("timm:one", "all", "imagenet1k", 0.9),
            ("timm:two", "all", "imagenet1k", 0.7),
            ("timm:three", "test", "confusing20", 0.9),
        )
        for group, value in (("common", common), ("counter", common - 0.2))
    ]
    (workspace.root / "results").mkdir()
    results = from_rows(rows, RESULTS.schema)
    write_table(workspace.root / "results" / "results.parquet", results, RESULTS)
    page = page_of(workspace)
    _, *rows = page.tables[MODELS]
    own = [row for row in rows if row[1] not in {"this page", "published"}]
    # Of each model its test photos where it has any; other labels are not to be compared.
    test, whole = (points(above(imagenet_line, share, share - 0.2)) for share in (0.8, 0.7))
    assert own == [
        ["timm:one", "zoo, test", "80.0 %", "60.0 %", "20.0", test],
        ["timm:two", "zoo, all", "70.0 %", "50.0 %", "20.0", whole],
    ]
    assert told(workspace)["fresh"]


def test_figures_tell_the_numbers_of_the_table(invented, page, rule):
    for pair in (p for p in rows_of(invented, "pairs") if p["run"] == RUN):
        part = "test_" if rule == "controlled" else ""
        for group, background in PAIR.items():
            share, photos = pair[f"{group}_{part}accuracy"], pair[f"{group}_{part}photos"]
            low, high = map(
                percent, map(float, wilson(np.asarray(share * photos), np.asarray(photos)))
            )
            assert (
                f"{pair['class_name']} on {background} ({group}): {percent(share)} of {photos} "
                f"photos, interval {low} to {high}"
            ) in page.titles
        words = f"{pair['class_name']}: naive drop {100 * pair['drop']:.1f} points"
        if rule == "controlled":
            low, high = 100 * pair["drop_ci_low"], 100 * pair["drop_ci_high"]
            words += f", honest drop {100 * pair['drop_honest']:.1f} points"
            words += f", interval {low:.1f} to {high:.1f}"
        assert words in page.titles


def test_licences_are_counted_and_photos_credited(invented, page):
    stored = [r for r in rows_of(invented, "photos") if r["status"] == "ok"]
    counts = Counter(r["license"] for r in stored)
    _, *rows = page.tables["Stored photos by licence"]
    assert [int(row[1]) for row in rows] == sorted(counts.values(), reverse=True)
    assert {row[2] for row in rows} == {"yes, under its terms"}
    assert "Not for redistribution" not in page.words
    credited = [
        r for r in stored if f"{r['photo_id']}: {r['attribution'] or r['creator']}," in page.words
    ]
    assert len(credited) >= 7 * 2 * 6


def test_no_id_occurs_twice(page):
    assert len(page.ids) == len(set(page.ids))


# -- in a browser


def opened(browser: Browser, out: str, width: int = 1280, scheme: str = "light"):
    """The page in a browser, and whatever it complained of or asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    page.on(
        "request",
        lambda request: (
            trouble.append(request.url)
            if not request.url.startswith(("data:", Path(out).as_uri()))
            else None
        ),
    )
    page.goto(Path(out).as_uri())
    page.wait_for_load_state("networkidle")
    return page, trouble


def test_text_from_outside_never_becomes_markup(browser, tmp_path):
    workspace = invent(
        tmp_path / "<b>space'",
        classes=9,
        words=hostile,
        licenses=("cc0", *HOSTILE[:3], "all-rights-reserved"),
    )
    agreement(workspace, AgreementParameters(resamples=5), Progress())
    out = told(workspace)["out"]
    page, trouble = opened(browser, out)
    assert trouble == []
    title = page.title()
    assert title == "<b>space': report"
    assert page.locator("script, iframe, object, embed, form, base").count() == 0
    assert page.locator("[onerror], [onload], [onclick]").count() == 0
    links = page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    assert all(re.match(r"#|https://creativecommons\.org/", link) for link in links)
    sources = page.eval_on_selector_all("img", "all => all.map(i => i.src.slice(0, 23))")
    assert set(sources) == {"data:image/jpeg;base64,"}
    # As text it is there, word for word.
    words = page.locator("body").text_content()
    for text in (*HOSTILE[:3], HOSTILE[4], HOSTILE[5]):
        assert text in words
    figure = page.locator(".plots svg").first.text_content()
    assert HOSTILE[0] in figure
    for number in range(page.locator("summary").count()):
        summary = page.locator("summary").nth(number)
        if summary.locator("..").get_attribute("open") is None:
            summary.click()
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert trouble == []
    assert page.title() == title


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways(browser, invented, scheme):
    page, trouble = opened(browser, told(invented)["out"], width=390, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    heights = page.eval_on_selector_all(
        "p, li, summary, .plot text",
        "all => all.map(e => e.getBoundingClientRect().height).filter(h => h > 0)",
    )
    assert min(heights) >= 11
    broken = page.eval_on_selector_all(
        "img", "all => all.filter(i => i.complete && i.naturalWidth === 0).length"
    )
    assert broken == 0
    assert trouble == []


def test_words_can_be_told_from_the_page_in_light_and_in_dark(browser, invented):
    for scheme in ("light", "dark"):
        page, _ = opened(browser, told(invented)["out"], scheme=scheme)
        for name in ("--ink", "--soft", "--common", "--counter", "--here", "--link"):
            assert contrast(page, name, "--page") >= 4.5, (scheme, name)
            assert contrast(page, name, "--card") >= 4.5, (scheme, name)
        assert contrast(page, "--ink", "--warn") >= 4.5


def contrast(page, *names: str) -> float:
    """WCAG 2's contrast of two colours of the style sheet."""
    lights = []
    for name in names:
        colour = page.evaluate(
            "name => getComputedStyle(document.documentElement).getPropertyValue(name)", name
        ).strip("# ")
        full = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
        channels = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    low, high = sorted(lights)
    return (high + 0.05) / (low + 0.05)


def test_a_model_tells_its_name_when_it_is_pointed_at_or_tapped(browser, invented):
    page, _ = opened(browser, told(invented)["out"])
    marks = page.locator(".square .tells")
    assert marks.count() == 2 + 28 + 15
    alexnet = marks.filter(has_text="AlexNet")
    said = alexnet.locator(".says")
    assert not said.is_visible()
    alexnet.locator(".hit").hover(force=True)
    assert said.is_visible()
    page.mouse.move(0, 0)
    assert not said.is_visible()
    # A finger leaves the mark in focus.
    alexnet.locator(".hit").click(force=True)
    page.mouse.move(0, 0)
    assert said.is_visible()
    assert marks.filter(has_text=RUN).locator(".says").count() == 1


def test_a_long_name_stays_within_the_figure(browser, tmp_path):
    workspace = invent(tmp_path / "w", classes=2)
    long = f"model-{'x' * 90}-00000001"
    pairs, groups = rows_of(workspace, "pairs"), rows_of(workspace, "groups")
    for row in (*pairs, *groups):
        names = {"run": row["run"], "chosen_by": row.get("chosen_by")}
        row |= {key: long if name == RUN else name for key, name in names.items() if name}
    write_table(workspace.table_path("pairs"), from_rows(pairs, PAIRS.schema), PAIRS)
    write_table(workspace.table_path("groups"), from_rows(groups, GROUPS.schema), GROUPS)
    workspace.table_path(f"predictions/{RUN}").rename(workspace.table_path(f"predictions/{long}"))
    page, _ = opened(browser, told(workspace)["out"], width=390)
    mark = page.locator(".square .tells").filter(has_text=long)
    mark.evaluate("mark => mark.focus()")
    words = mark.locator(".says").bounding_box()
    assert words["x"] + words["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") == 390


# -- the page as a file


def noise(workspace: Workspace) -> None:
    """Put photos that hardly compress behind every row."""
    photos = workspace.read("photos").to_pylist()
    rng = np.random.default_rng(1)
    stored = []
    for _ in range(40):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, (360, 540, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        data = buffer.getvalue()
        stored.append((*workspace.photos.add(data, inspect_photo(data)), len(data)))
    for number, row in enumerate(photos):
        if row["status"] == "ok":
            row["sha256"], row["path"], row["bytes"] = stored[number % len(stored)]
    write_table(workspace.table_path("photos"), from_rows(photos, PHOTOS.schema), PHOTOS)


@pytest.mark.parametrize("classes", [13, 1000])
def test_the_page_stays_below_its_bound_with_photos_of_noise(tmp_path, classes):
    workspace = invent(tmp_path / "large", classes=classes)
    noise(workspace)
    facts = told(workspace)
    assert facts["bytes"] < AT_MOST
    assert facts["classes"] == classes
    page = Page(Path(facts["out"]).read_text("utf-8"))
    shown = len(page.articles)
    assert shown == min(classes, PHOTOS_AT_MOST // 6)
    if classes > shown:
        assert f"{shown} of {classes} classes are shown with photos" in page.words
    (rows,) = (rows for name, rows in page.tables.items() if name.startswith("Pair, accuracy"))
    assert len(rows) == classes + 1


@given(classes=st.integers(0, 3000), per_group=st.integers(0, 40))
def test_photos_are_bounded_however_many_classes(classes, per_group):
    shown, each = plan_strips(classes, per_group)
    assert 2 * shown * each <= PHOTOS_AT_MOST
    assert shown <= classes
    assert each <= per_group
    assert bool(shown * each) == bool(classes * per_group)


def test_thumbnails_are_small_upright_and_without_exif(workspace, tmp_path):
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    exif[0x0112] = 6
    root = tmp_path / "animals"
    save_photo(root / "lion" / "0.jpg", 0, size=(900, 600), exif=exif, comment=b"secret place")
    save_photo(root / "lion" / "1.jpg", 0, size=(900, 600), exif=exif, comment=b"secret place!")
    collect(workspace, CollectParameters(root=str(root), workers=1), Progress())
    cap("dedup", cwd=workspace.root)
    html = Path(told(workspace)["out"]).read_text()
    pictures = re.findall(
        r'src="data:image/jpeg;base64,([^"]+)" width="(\d+)" height="(\d+)"', html
    )
    assert len(pictures) == 2
    for data, width, height in pictures:
        raw = base64.b64decode(data)
        image = Image.open(io.BytesIO(raw))
        assert image.size == (int(width), int(height))
        assert image.height > image.width
        assert not image.getexif()
        assert b"secret" not in raw


def test_a_photo_that_is_gone_says_so(invented, tmp_path):
    copy = shutil.copytree(invented.root, tmp_path / "copy")
    for file in (copy / "photos").rglob("*.jpg"):
        file.write_bytes(b"changed")
    (copy / "reports" / "report.html").unlink(missing_ok=True)
    page = page_of(Workspace(copy))
    assert "the stored bytes have changed since they were collected" in page.words


def fail(workspace: Workspace, *photo_ids: str) -> None:
    """Make of stored photos what they are once they are found gone: failed rows without a file."""
    rows = rows_of(workspace, "photos")
    for row in rows:
        if row["photo_id"] in photo_ids:
            row.update(dict.fromkeys(("sha256", "path", "bytes", "width", "height", "format")))
            row.update(status="failed", error=f"gone: {row['photo_id']}")
    write_table(workspace.table_path("photos"), from_rows(rows, PHOTOS.schema), PHOTOS)


def test_photos_that_have_failed_since_they_were_chosen_are_told_by_their_error(tmp_path):
    workspace = invent(tmp_path / "w", classes=2)
    before = Path(told(workspace)["out"]).read_text().count("data:image/jpeg")
    photos = [row["photo_id"] for row in rows_of(workspace, "photos") if row["status"] == "ok"]
    (copy, *_), (_, keeper, _) = copies(workspace.read("duplicates"), set(photos)).examples[:2]
    chosen = [row["photo_id"] for row in rows_of(workspace, "split")]
    gone = {chosen[0], chosen[-1], copy, keeper}
    fail(workspace, *gone)
    html = Path(told(workspace, photos_per_group=100)["out"]).read_text()
    for photo_id in gone:
        assert f'<div class="gone">gone: {photo_id}</div>' in html
    assert html.count("data:image/jpeg") > before / 2


def test_a_cluster_is_shown_without_a_photo_that_has_failed_since(workspace, animals):
    collect(workspace, CollectParameters(root=str(animals)), Progress())
    discover(workspace)
    predict(workspace, {row["photo_id"]: True for row in rows_of(workspace, "photos")})
    whole = Path(told(workspace, model=DISCOVERED)["out"]).read_text().split('id="cluster-0"')[1]
    fail(workspace, BEARS[1])
    sheet = Path(told(workspace, model=DISCOVERED)["out"]).read_text().split('id="cluster-0"')[1]
    assert f'<div class="framed"><div class="gone">gone: {BEARS[1]}</div></div>' in sheet
    for shown in ('<div class="framed"><img', '<i style="left:'):
        assert sheet.count(shown) == whole.count(shown) - 1


def test_photos_that_may_not_be_passed_on_are_marked(tmp_path):
    workspace = invent(tmp_path / "w", classes=2, licenses=("cc0", "all-rights-reserved"))
    page = page_of(workspace)
    assert "Not for redistribution" in page.words
    _, *rows = page.tables["Stored photos by licence"]
    assert {row[2] for row in rows} == {"yes, under its terms", "no"}
    assert "Not for redistribution" not in page_of(workspace, photos_per_group=0).words


# -- what is not there yet, and what is there already


def test_what_is_not_there_yet_is_left_out_with_the_command_that_makes_it(invented, tmp_path):
    copy = shutil.copytree(invented.root, tmp_path / "copy")
    workspace = Workspace(copy)
    stages = [
        (("results/agreement.json",), "cap annotate agreement"),
        (
            ("manifests/split.parquet", "manifests/pairs.parquet", "manifests/groups.parquet"),
            "cap split",
        ),
        (
            (f"manifests/predictions/{RUN}.parquet", f"manifests/predictions/{OTHER}.parquet"),
            "cap score",
        ),
        (("manifests/labels.parquet", "manifests/annotations.parquet"), "cap annotate import FILE"),
        (("manifests/duplicates.parquet",), "cap dedup"),
    ]
    for files, command in stages:
        for file in files:
            (copy / file).unlink()
        assert command in page_of(workspace).words
    (copy / "manifests" / "photos.parquet").unlink()
    with pytest.raises(CapError, match="run `cap collect` first"):
        told(workspace)


def test_a_report_is_fresh_until_a_table_changes(tmp_path):
    workspace = invent(tmp_path / "w", classes=2)
    first = told(workspace)
    assert not first["fresh"]
    written = Path(first["out"]).read_bytes()
    assert told(workspace)["fresh"]
    assert not told(workspace, photos_per_group=2)["fresh"]
    assert not told(workspace)["fresh"]
    # The same tables give the same bytes.
    assert Path(first["out"]).read_bytes() == written
    labels = workspace.read("labels")
    write_table(workspace.table_path("labels"), labels.slice(1), LABELS)
    assert not told(workspace)["fresh"]
    assert not list((workspace.root / "reports").glob(".*"))


def test_newer_answers_than_the_agreement_knows_are_told(tmp_path):
    workspace = invent(tmp_path / "w", classes=2)
    agreement(workspace, AgreementParameters(resamples=5), Progress())
    assert "There are newer answers" not in page_of(workspace).words
    answers = workspace.read("annotations")
    write_table(workspace.table_path("annotations"), answers.slice(1), ANNOTATIONS)
    assert "There are newer answers" in page_of(workspace).words


def test_another_file_is_never_overwritten(tmp_path):
    workspace = invent(tmp_path / "w", classes=2)
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(CapError, match="exists and is no report of cap"):
        told(workspace, out=str(mine))
    assert mine.read_text() == "<p>mine</p>"
    assert told(workspace, out=str(tmp_path / "other.html"))["bytes"] > 1000


def test_a_model_that_was_reported_for_can_be_shown(tmp_path):
    workspace = invent(tmp_path / "w", classes=3)
    page = page_of(workspace, model=OTHER)
    assert f"The model is {OTHER}" in page.words
    pair = next(p for p in rows_of(workspace, "pairs") if p["run"] == OTHER)
    assert points(pair["drop_honest"]) in page.articles[f"class-{pair['class_index']}"]
    with pytest.raises(CapError, match="has not been scored"):
        told(workspace, model="timm:another")


def test_a_run_on_the_real_photos_ends_with_a_report(finished):
    out = finished.root / "reports" / "report.html"
    assert out.stat().st_size < AT_MOST
    page = Page(out.read_text("utf-8"))
    assert "Not for redistribution" in page.words
    assert page.facts["asked"] == "775"
    facts = json.loads(cap("report", "--json", cwd=finished.root).stdout)
    assert facts["fresh"]
    assert facts["out"] == str(out)
    assert set(facts["selected"]) == {
        p["class_name"] for p in rows_of(finished, "pairs") if p["selected"]
    }
