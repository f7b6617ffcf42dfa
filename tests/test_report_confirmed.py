"""What people say of a cluster, in the report: recomputed from the answers, and never invented."""

from __future__ import annotations

import html
import re
from collections import defaultdict
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from clusters import BEARS, CLUSTERS, LIONS, OTTERS, RUN, cluster_row, discover, predict, write
from hypothesis import given

from annotation.confirming import discovery_digest
from manifests.metrics import wilson
from manifests.progress import Progress
from manifests.schema import CONFIRMATIONS
from manifests.workspace import Workspace
from pipeline.collect import collect
from pipeline.parameters import CollectParameters, ReportParameters
from pipeline.report import report
from pipeline.report.confirmed import confirmed

# The last photos repeat the first, byte by byte; p11 has failed.
PHOTOS = {f"p{n}": {"class_index": n % 2, "sha256": f"{n % 8:064}"} for n in range(11)}
PHOTOS["p11"] = {"class_index": 1, "sha256": None}
PREDICTIONS = {f"p{n}": {"correct": n % 8 % 3 > 0} for n in range(10)}


@st.composite
def answers(draw):
    """What some people said of some photos, each photo with or without the cluster.

    Of copies they may say one thing or another, as where each was asked about.
    """
    given_ = draw(
        st.dictionaries(
            st.tuples(st.sampled_from([*PHOTOS, "gone"]), st.sampled_from("abcd")),
            st.sampled_from([True, False, None]),
        )
    )
    inside = {photo: draw(st.booleans()) for photo in sorted({photo for photo, _ in given_})}
    return [
        {"photo_id": photo, "annotator": who, "shows": shows, "in_cluster": inside[photo]}
        for (photo, who), shows in given_.items()
    ]


@given(answers(), st.sampled_from([0, 1, None]))
def test_every_share_follows_from_the_majority_of_each_photo(rows, class_index):
    found = confirmed(rows, class_index, PHOTOS, PREDICTIONS)
    if not rows:
        assert found is None
        return
    content = {
        photo: (PHOTOS.get(photo) or {}).get("sha256") or photo for photo in [*PHOTOS, "gone"]
    }
    said, ids = defaultdict(set), defaultdict(list)
    for row in rows:
        photo = row["photo_id"]
        ids[content[photo]].append(photo)
        said[content[photo]] |= (
            set() if row["shows"] is None else {(row["annotator"], row["shows"])}
        )
    mean = {photo: np.mean([shows for _, shows in votes]) for photo, votes in said.items() if votes}
    inside = {content[row["photo_id"]] for row in rows if row["in_cluster"]}
    assert found.people == len({row["annotator"] for row in rows})
    assert found.skipped == len(said) - len(mean)
    assert found.ties == sum(value == 0.5 for value in mean.values())
    shows = {photo: value > 0.5 for photo, value in mean.items() if value != 0.5}
    right = {
        content[p]: PREDICTIONS[p]["correct"]
        for photo in shows
        for p in ids[photo]
        if p in PREDICTIONS and PHOTOS[p]["class_index"] == class_index
    }
    for share, holds in (
        (found.inside, [shows[p] for p in shows if p in inside]),
        (found.outside, [shows[p] for p in shows if p not in inside]),
        (found.showing, [right[p] for p in right if shows[p]]),
        (found.others, [right[p] for p in right if not shows[p]]),
    ):
        if not holds:
            assert share is None
            continue
        low, high = wilson(np.array(sum(holds)), np.array(len(holds)))
        assert (share.count, share.photos) == (sum(holds), len(holds))
        assert (share.low, share.high) == (low, high)


def test_an_answer_about_exact_copies_counts_once():
    copies = ("p1", "p9")
    rows = [
        {"photo_id": photo, "annotator": "ann", "shows": shows, "in_cluster": shows}
        for photo, shows in (("p2", False), ("p10", False), *((photo, True) for photo in copies))
    ]
    found = confirmed(rows, 1, PHOTOS, PREDICTIONS)
    assert (found.inside.count, found.inside.photos) == (1, 1)
    assert (found.outside.count, found.outside.photos) == (0, 1)
    assert (found.showing.count, found.showing.photos) == (1, 1)
    even = [rows[-1] | {"annotator": "bob", "shows": False, "photo_id": photo} for photo in copies]
    assert confirmed([*rows, *even], 1, PHOTOS, PREDICTIONS).ties == 1


# The page


@pytest.fixture
def found(workspace: Workspace, animals) -> Workspace:
    """Twelve photos, three clusters of their regions, and what the model says of them."""
    collect(workspace, CollectParameters(root=str(animals)), Progress())
    discover(workspace)
    wrong = {BEARS[3], LIONS[0], OTTERS[2]}
    predict(workspace, {photo: photo not in wrong for photo in [*BEARS, *LIONS, *OTTERS]})
    return workspace


def answer(photo_id: str, who: str, *, shows: bool | None, **more) -> dict[str, object]:
    return {
        "photo_id": photo_id,
        "annotator": who,
        "run": RUN,
        "cluster": 0,
        "discovery": discovery_digest(cluster_row(0, CLUSTERS[0])),
        "shows": shows,
        "in_cluster": photo_id in CLUSTERS[0],
        "source_id": f"project/{who}",
        "config_version": "0badc0de",
        **more,
    }


def told(workspace: Workspace) -> tuple[dict[int, str], bool]:
    """The text of each cluster's article, and whether the page was fresh."""
    outcome = report(workspace, ReportParameters(model=RUN), Progress())
    page = Path(outcome.facts["out"]).read_text()
    articles = page.split('id="discoveries">')[1].split("</section>")[0].split("<article ")[1:]
    texts = {}
    for article in articles:
        text = html.unescape(re.sub(r"<[^>]+>", "", article)).replace("\N{NO-BREAK SPACE}", " ")
        texts[int(re.search(r'id="cluster-(\d+)"', article)[1])] = " ".join(text.split())
    return texts, outcome.fresh


def percent(count: int, photos: int) -> str:
    low, high = wilson(np.array(count), np.array(photos))
    return f"({100 * low:.1f} to {100 * high:.1f} %)"


def test_the_report_tells_what_people_say_of_a_cluster_and_of_no_other(found):
    before, _ = told(found)
    assert len(before) == 3
    assert not [text for text in before.values() if "People say" in text]
    older = {"discovery": "an older one"}
    rows = [
        *(answer(photo, "ann", shows=True) for photo in BEARS),
        answer(LIONS[0], "ann", shows=False),
        answer(BEARS[0], "bob", shows=True),
        answer(BEARS[3], "bob", shows=False),
        answer(BEARS[3], "cal", shows=False),
        answer(OTTERS[0], "ann", shows=True),
        answer(OTTERS[1], "ann", shows=False),
        # Left out: even, skipped, and about another clustering or run.
        answer(OTTERS[2], "ann", shows=True),
        answer(OTTERS[2], "bob", shows=False),
        answer(OTTERS[3], "bob", shows=None),
        answer(LIONS[1], "ann", shows=True, **older),
        answer(BEARS[1], "dan", shows=False, run="another-00000000"),
    ]
    write(found, "confirmations", rows, CONFIRMATIONS)
    after, fresh = told(found)
    assert not fresh
    assert (
        f"People say that 3 of 5 photos with it show what they have in common {percent(3, 5)}, "
        f"and 1 of 2 without it {percent(1, 2)}. 3 people looked."
    ) in after[0]
    assert "Left out: 1 on which they are even." in after[0]
    assert "Left out: 1 that everybody skipped." in after[0]
    # Three bears show it, all named correctly; the fourth does not, and is not.
    low, high = (100 * end for end in wilson(np.array(3), np.array(3)))
    assert (
        f"the model names correctly 100.0 % ({low:.1f} to {high:.1f}) of 3 that show it and 0.0 %"
    ) in after[0]
    assert after[1] == before[1]
    assert after[2] == before[2]
    assert told(found)[1]


def test_one_side_alone_and_skips_alone_are_sentences_too(found):
    write(found, "confirmations", [answer(LIONS[1], "ann", shows=False)], CONFIRMATIONS)
    text = told(found)[0][0]
    assert (
        f"People say that 0 of 1 photos without it show what they have in common {percent(0, 1)}. "
        "1 person looked."
    ) in text
    assert "the model names correctly" not in text
    write(found, "confirmations", [answer(BEARS[0], "ann", shows=True)], CONFIRMATIONS)
    text = told(found)[0][0]
    assert f"1 of 1 photos with it show what they have in common {percent(1, 1)}. 1 per" in text
    write(found, "confirmations", [answer(LIONS[1], "ann", shows=None)], CONFIRMATIONS)
    text = told(found)[0][0]
    assert "People say" not in text
    assert "1 person looked. Left out: 1 that everybody skipped." in text
