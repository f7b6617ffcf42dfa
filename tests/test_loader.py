"""The loader: from any place, photos as bytes or as links, for torch, and what it refuses."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import REPOSITORY
from flask import Flask, Response, send_from_directory
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from releases import change_split, edit, released
from torch.utils.data import DataLoader, DistributedSampler
from werkzeug.serving import make_server

from manifests import load_split
from manifests.errors import CapError, ReleaseError
from manifests.loader import Split
from manifests.photos import inspect_photo, open_array, open_image, open_upright
from manifests.progress import Progress
from manifests.schema import RELEASE
from manifests.storage import Storage
from manifests.workspace import Workspace
from pipeline.dedup.hashing import phash
from pipeline.export import export
from pipeline.parameters import ExportReleaseParameters
from pipeline.release.checksums import verify


@contextlib.contextmanager
def serving(
    folder: Path,
    *,
    ranges: bool = True,
    headers: Mapping[str, str] | None = None,
    asked: list[str] | None = None,
) -> Iterator[str]:
    """A web server for the files of a folder; gives its URL, and notes what it is asked for."""
    app = Flask("files")

    @app.get("/<path:name>")
    def file(name: str) -> Response:
        if asked is not None:
            asked.append(name)
        if not ranges and (folder / name).is_file():
            return Response((folder / name).read_bytes(), headers=headers)
        return send_from_directory(folder, name, conditional=True)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def out(split_workspace: Workspace, tmp_path: Path) -> Path:
    """A release of twelve photos."""
    released(split_workspace, tmp_path / "out", "any")
    return tmp_path / "out"


def content(split: Split) -> dict[str, tuple[str, int]]:
    """By photo: the digest of its bytes and its class."""
    return {
        row["photo_id"]: (
            hashlib.sha256(split.read_bytes(index)).hexdigest(),
            row["class_index"],
        )
        for index, row in enumerate(split.table.to_pylist())
    }


# From any place


def test_a_folder_and_a_web_server_and_a_memory_give_the_same_photos(out):
    here = content(load_split(out))
    with serving(out.parent) as url:
        assert content(load_split(f"{url}/out/")) == here
    memory = fsspec.filesystem("memory")
    memory.put(str(out), "/released", recursive=True)
    try:
        assert content(load_split("memory://released")) == here
    finally:
        memory.rm("/released", recursive=True)


def test_a_bucket_gives_the_same_photos(out, s3):
    s3.create_bucket(Bucket="datasets")
    for file in out.rglob("*.*"):
        s3.put_object(
            Bucket="datasets",
            Key=f"animals/{file.relative_to(out)}",
            Body=file.read_bytes(),
            ACL="public-read",
        )
    here = content(load_split(out))
    assert content(load_split("s3://datasets/animals", storage_options={"anon": True})) == here
    with pytest.raises(ReleaseError, match="is no release"):
        load_split("s3://datasets/plants", storage_options={"anon": True})


def test_only_the_row_groups_that_are_asked_for_come_over_the_network(split_workspace, tmp_path):
    released(split_workspace, tmp_path / "out", "any")
    sent = []
    with serving(tmp_path, asked=sent) as url:
        split = load_split(f"{url}/out")
        sent.clear()
        split.group("counter").read_bytes(0)
        assert {Path(name).name.split("-")[0] for name in sent} == {"counter"}


@pytest.mark.parametrize("headers", [{}, {"Accept-Ranges": "none"}])
def test_a_server_that_gives_whole_files_only_is_named_with_a_way_on(headers, out, tmp_path):
    for file in (out / "data").iterdir():
        # Longer than what is read at once, so that it cannot be had whole by chance.
        table = pq.read_table(file).replace_schema_metadata({"note": "long " * 40_000})
        pq.write_table(table, file)
    with serving(out.parent, ranges=False, headers=headers) as url:
        with pytest.raises(ReleaseError, match=r"HTTP range requests.*simplecache::"):
            load_split(f"{url}/out")
        options = {"simplecache": {"cache_storage": str(tmp_path / "copies")}}
        copied = load_split(f"simplecache::{url}/out", storage_options=options)
        assert content(copied) == content(load_split(out))


def test_places_that_are_not_there_are_one_clear_error(tmp_path):
    with serving(tmp_path) as url:
        for place in (f"{url}/nothing", tmp_path / "nothing", "memory://nothing"):
            with pytest.raises(ReleaseError, match=r"is no release: release\.json"):
                load_split(place)
    with pytest.raises(ReleaseError, match="is no release"):
        load_split(f"{url}/closed")
    with pytest.raises(ReleaseError, match="cannot be opened"):
        load_split("nosuch://place")


# Photos as links


@pytest.fixture
def linked_workspace(split_workspace: Workspace) -> Iterator[tuple[Workspace, str, list[str]]]:
    """The split workspace with its photos on a web server, the server, and what that served."""
    asked: list[str] = []
    paths = {r["photo_id"]: r["path"] for r in split_workspace.read("photos").to_pylist()}
    with serving(split_workspace.root, asked=asked) as url:
        change_split(
            split_workspace,
            lambda rows: [{**row, "url": f"{url}/{paths[row['photo_id']]}"} for row in rows],
        )
        yield split_workspace, url, asked


def linked(out: Path, url: str, tmp_path: Path) -> Split:
    return load_split(out, cache=tmp_path / "cache", servers=[url])


def test_linked_photos_are_fetched_once_and_kept(linked_workspace, tmp_path):
    workspace, url, asked = linked_workspace
    facts = released(workspace, out := tmp_path / "out", images="link")
    assert facts["linked"] == facts["photos"] == 12
    images = [row["image"] for row in pq.read_table(out / "data").to_pylist()]
    assert all(image["bytes"] is None and image["path"].startswith(url) for image in images)
    released(workspace, whole := tmp_path / "whole", "any")
    split = linked(out, url, tmp_path)
    assert not asked
    assert content(split) == content(load_split(whole))
    assert len(asked) == 12
    # Another process finds them in the cache, and so does a worker, which gets the split pickled.
    assert content(linked(out, url, tmp_path)) == content(split)
    assert content(pickle.loads(pickle.dumps(split))) == content(split)
    assert len(asked) == 12
    asked.clear()
    assert verify(str(out), Progress()).facts == {"files": 7, "photos": 0, "linked": 12}
    assert not asked


def test_a_release_of_links_is_exported_with_its_photos(linked_workspace, tmp_path):
    workspace, url, asked = linked_workspace
    released(workspace, out := tmp_path / "out", images="link")
    parameters = ExportReleaseParameters(str(out), str(tmp_path / "files"), "imagefolder")
    with pytest.raises(CapError, match="12 of 12 photos could not be had, and nothing was"):
        export(parameters, Progress())
    assert load_split(out, servers=[url]).fetch().linked == len(asked) == 12
    export(parameters, Progress())
    found = {hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.rglob("*-*.jpg")}
    assert found >= set(load_split(out).table["sha256"].to_pylist())
    assert len(asked) == 12


def test_a_release_at_a_url_is_not_verified_as_a_folder():
    with pytest.raises(ReleaseError, match="--verify reads a folder; copy memory://out"):
        verify("memory://out", Progress())


def test_mixed_releases_embed_what_may_be_shared_and_link_the_rest(linked_workspace, tmp_path):
    workspace, url, asked = linked_workspace
    facts = released(workspace, out := tmp_path / "out", images="mixed")
    assert (facts["photos"], facts["linked"], facts["left_out"]) == (12, 6, {})
    split = linked(out, url, tmp_path)
    report = split.fetch()
    assert str(report) == "6 of 6 linked photos are here"
    assert len(asked) == 6
    released(workspace, whole := tmp_path / "whole", "any")
    assert content(split) == content(load_split(whole))
    card = (out / "README.md").read_text("utf-8")
    assert "not for redistribution" not in card
    assert json.loads((out / "release.json").read_text())["redistribution"] is True


def test_photos_that_are_gone_are_told_and_can_be_left_out(linked_workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("manifests.fetch._LONGEST_BACKOFF", 0.05)
    workspace, url, _ = linked_workspace
    released(workspace, out := tmp_path / "out", images="link")
    rows = workspace.read("photos").to_pylist()
    (workspace.root / rows[0]["path"]).unlink()
    other = workspace.root / rows[1]["path"]
    other.unlink()
    other.write_bytes((workspace.root / rows[2]["path"]).read_bytes())
    split = linked(out, url, tmp_path)
    with pytest.raises(ReleaseError, match=r"could not be had.*not found \(404\).*split.fetch\(\)"):
        split.read_bytes(0)
    report = split.fetch()
    gone = {row["photo_id"]: row for row in report.gone.to_pylist()}
    assert gone.keys() == {rows[0]["photo_id"], rows[1]["photo_id"]}
    assert report.linked == 12
    assert "10 of 12 linked photos are here; 2 could not be had" in str(report)
    assert "404" in gone[rows[0]["photo_id"]]["error"]
    assert "sha256" in gone[rows[1]["photo_id"]]["error"]
    assert not any(row["transient"] for row in gone.values())
    rest = split.exclude(report.gone["photo_id"].to_pylist())
    assert len(rest) == 10
    assert not rest.fetch().gone.num_rows
    with pytest.raises(ReleaseError, match="the split has no photo 'folder:other'"):
        split.exclude(["folder:other"])


def test_a_kept_photo_that_was_changed_is_fetched_again(linked_workspace, tmp_path):
    workspace, url, asked = linked_workspace
    released(workspace, out := tmp_path / "out", images="link")
    split = linked(out, url, tmp_path)
    whole = content(split)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 12
    kept[0].write_bytes(b"something else")
    assert content(split) == whole
    assert len(asked) == 13


def test_a_release_of_strangers_cannot_ask_this_machine_or_read_its_files(
    linked_workspace, tmp_path
):
    workspace, _, asked = linked_workspace
    released(workspace, out := tmp_path / "out", images="link")
    split = load_split(out, cache=tmp_path / "cache")
    with pytest.raises(ReleaseError, match="refused"):
        split.read_bytes(0)
    assert not asked
    assert not list((tmp_path / "cache").rglob("*.*"))
    change_split(
        workspace, lambda rows: [{**row, "url": f"file://{REPOSITORY}/README.md"} for row in rows]
    )
    with pytest.raises(CapError, match="no photo of the split can be linked: 12 have no http"):
        released(workspace, tmp_path / "files", images="link")


def test_photos_of_a_folder_have_no_address_to_link_to(split_workspace, tmp_path):
    with pytest.raises(CapError, match=r"no photo of the split can be linked: 12 have no http"):
        released(split_workspace, tmp_path / "out", images="link")
    facts = released(split_workspace, tmp_path / "mixed", images="mixed")
    assert (facts["photos"], facts["linked"]) == (6, 0)
    assert facts["left_out"] == {"all-rights-reserved": 3, "unknown": 3}
    assert "6 would be links, had they an address" in (tmp_path / "mixed/README.md").read_text()


def test_a_cache_that_cannot_be_written_is_one_line(linked_workspace, tmp_path):
    workspace, url, _ = linked_workspace
    released(workspace, out := tmp_path / "out", images="link")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CapError, match="could not keep a photo in"):
        linked(out, url, tmp_path).read_bytes(0)


# For torch


def ids_of(loader) -> list[str]:
    return [photo_id for _, _, ids in loader for photo_id in ids]


def as_tensor(image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("arrays", [False, True])
def test_a_stream_gives_every_photo_once(out, workers, arrays):
    split = load_split(out)
    stream = split.stream(as_tensor, arrays=arrays)
    loader = DataLoader(stream, batch_size=4, num_workers=workers)
    assert Counter(ids_of(loader)) == Counter(split.table["photo_id"].to_pylist())
    assert len(stream) == 12
    for images, labels, ids in loader:
        assert images.shape == (len(ids), 72, 96, 3)
        rows = {row["photo_id"]: row for row in split.table.to_pylist()}
        assert labels.tolist() == [rows[photo_id]["class_index"] for photo_id in ids]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("read_before", [False, True])
def test_workers_that_are_forked_read_from_a_web_server(out, read_before):
    with serving(out.parent) as url:
        split = load_split(f"{url}/out")
        if read_before:
            split.read_bytes(0)
        loader = DataLoader(
            split.torch(as_tensor), batch_size=4, num_workers=2, multiprocessing_context="fork"
        )
        assert ids_of(loader) == split.table["photo_id"].to_pylist()
        # The connections of this process are as they were.
        assert content(split) == content(load_split(out))


def test_a_shuffled_stream_has_another_order_each_epoch_and_the_same_again(out):
    split = load_split(out)
    stream = split.stream(shuffle=True, seed=3)

    def order(epoch: int) -> list[str]:
        stream.set_epoch(epoch)
        return [photo_id for _, _, photo_id in stream]

    first, second = order(0), order(1)
    assert first != second
    assert sorted(first) == sorted(second)
    assert order(0) == first
    assert [i for _, _, i in split.stream(shuffle=True, seed=4)] != first


RANK = """
import json, os, sys
import torch.distributed as dist
from torch.utils.data import DataLoader
from manifests import load_split

def keep_id(batch):
    return [photo_id for _, _, photo_id in batch]

if __name__ == "__main__":
    release, meeting, rank, kind = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
    split = load_split(release)
    photos, sampler = split.stream(), None
    if kind == "sampler":
        from torch.utils.data import DistributedSampler
        photos = split.torch()
        sampler = DistributedSampler(photos, shuffle=True)
    loader = DataLoader(photos, batch_size=2, num_workers=2, sampler=sampler, collate_fn=keep_id)
    print(json.dumps([photo_id for batch in loader for photo_id in batch]))
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("kind", ["stream", "sampler"])
def test_two_processes_with_two_workers_each_share_the_photos(out, kind, tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    ranks = [
        subprocess.Popen(
            [sys.executable, script, out, tmp_path / f"meeting-{kind}", str(rank), kind],
            cwd=REPOSITORY,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    parts = [json.loads(rank.communicate(timeout=300)[0]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert [len(part) for part in parts] == [6, 6]
    every = load_split(out).table["photo_id"].to_pylist()
    assert Counter(parts[0] + parts[1]) == Counter(every)


def test_a_map_style_dataset_takes_any_index_and_samplers(out):
    photos = load_split(out).torch()
    assert photos[-1][2] == photos[len(photos) - 1][2]
    with pytest.raises(IndexError, match="index 12 is out of range for 12 photos"):
        photos[12]
    sampler = DistributedSampler(photos, num_replicas=2, rank=1, shuffle=False)
    loader = DataLoader(photos, batch_size=None, sampler=sampler)
    assert [photo_id for _, _, photo_id in loader] == [photos[i][2] for i in range(1, 12, 2)]


# What was released, and what was not


def test_classes_that_are_called_imagenet1k_and_are_others_are_refused(out):
    assert len(load_split(out).label_space) == 1000
    edit(out, label_space_digest="0" * 64)
    with pytest.raises(ReleaseError, match="called imagenet1k, but are not those of imagenet1k"):
        _ = load_split(out).label_space


def rewrite(out: Path, change) -> None:
    """Write the common shard anew after a change to its rows."""
    (file,) = (out / "data").glob("common-*")
    rows = pq.read_table(file).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, RELEASE.schema), file)


def test_a_label_changed_after_release_is_found_at_once(out):
    rewrite(out, lambda rows: rows[0].update(background="sky"))
    with pytest.raises(ReleaseError, match=r"the rows of .* have changed since the release"):
        load_split(out)


def test_a_photo_s_digest_is_compared_once_in_a_process(out, monkeypatch):
    split = load_split(out)
    first = split.read_bytes(0)
    compared = []
    real = hashlib.sha256
    monkeypatch.setattr(
        "manifests.images.hashlib.sha256", lambda data: compared.append(1) or real(data)
    )
    assert split.read_bytes(0) == first
    assert not compared
    assert split.group("common").read_bytes(0)
    assert split.group("common").read_bytes(0)
    assert len(compared) <= 1


def test_a_row_that_the_loader_does_not_need_may_be_added_to_a_release(out):
    """Readers made for this version read later ones that add columns."""
    for file in (out / "data").iterdir():
        table = pq.read_table(file)
        more = table.append_column("depicts", pa.array(["?"] * len(table)))
        pq.write_table(more, file)
    assert len(load_split(out)) == 12


@pytest.mark.parametrize("key", ["name", "photos", "rows_sha256", "shards", "label_space"])
def test_a_manifest_without_a_key_is_named(out, key):
    manifest = json.loads((out / "release.json").read_text())
    del manifest[key]
    (out / "release.json").write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match=f"lacks '{key}'"):
        load_split(out)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "\udcff"])
def test_a_manifest_that_is_none_is_one_clear_error(out, text):
    (out / "release.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ReleaseError, match=r"release\.json"):
        load_split(out)


@given(
    shards=st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["file", "rows", "x"]), inner, max_size=2)
        ),
        max_leaves=6,
    )
)
def test_whatever_a_manifest_calls_shards_gives_one_kind_of_error(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    manifest = {
        "schema_version": 1,
        "name": "x",
        "photos": 1,
        "rows_sha256": "",
        "label_space": "imagenet1k",
        "label_space_digest": "",
        "shards": shards,
    }
    (folder / "release.json").write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError):
        load_split(folder)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "data/../../secret", "..\\secret", "", ".", "data/link"],
)
def test_nothing_outside_a_release_is_opened(out, name):
    (out.parent / "secret").write_text("secret")
    (out / "data" / "link").symlink_to("../../secret")
    edit(out, shards=[{"file": name}])
    with pytest.raises(ReleaseError, match="lies outside the release"):
        load_split(out)
    with pytest.raises(ReleaseError, match="outside"):
        Storage(str(out)).check(name, "release.json")


@pytest.mark.parametrize("name", ["data/%2e%2e/secret", "secret?/data", "secret#data"])
def test_nothing_outside_a_release_is_asked_of_a_server(name):
    with pytest.raises(ReleaseError, match="lies outside the release"):
        Storage("https://photos.example/animals").check(name, "release.json")


def test_an_error_without_words_is_told_by_its_name(out):
    with (
        pytest.raises(ReleaseError, match=r"data of the release .* cannot be read: TimeoutError$"),
        Storage(str(out)).explained("data"),
    ):
        raise TimeoutError


@pytest.mark.parametrize("kept", [0, 1, 3, 1000, -1, -9])
def test_a_truncated_file_is_one_clear_error(out, kept):
    (file,) = (out / "data").glob("common-*")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ReleaseError, match="is not a whole Parquet file"):
        load_split(out)


def test_a_file_damaged_where_its_photos_are_is_found_when_one_is_read(out):
    (file,) = (out / "data").glob("common-*")
    data = bytearray(file.read_bytes())
    photo = load_split(out).group("common").read_bytes(0)
    at = data.find(photo)
    assert at > 0, "photos lie in the file as they are"
    data[at + 50] ^= 0xFF
    file.write_bytes(data)
    split = load_split(out).group("common")
    with pytest.raises(ReleaseError, match="has changed since the release"):
        split.read_bytes(0)
    assert split.read_bytes(1)


def test_groups_that_do_not_exist_are_told_with_those_that_do(out):
    split = load_split(out)
    with pytest.raises(ReleaseError, match="no group 'rare'; it has common, counter"):
        split.group("rare")
    with pytest.raises(ReleaseError, match="no partition 'test'; it has none"):
        split.partition("test")


@pytest.mark.parametrize("day", ["2026-13-01", "20261125"])
def test_a_day_that_is_none_is_refused_before_anything_is_written(split_workspace, tmp_path, day):
    with pytest.raises(CapError, match=f"--published {day} is no day"):
        released(split_workspace, tmp_path / "out", "any", published=day)
    assert not (tmp_path / "out").exists()


# Pixels


def encoded(image: Image.Image, suffix: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = coarse.resize((61, 47), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    whole = encoded(image, "JPEG", quality=85)
    return {
        "plain": whole,
        "progressive": encoded(image, "JPEG", progressive=True),
        "4:4:4": encoded(image, "JPEG", subsampling=0),
        "4:2:2": encoded(image, "JPEG", subsampling=1),
        "gray": encoded(image.convert("L"), "JPEG"),
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "turned": encoded(image, "JPEG", exif=turned),
        "PNG with alpha": encoded(image.convert("RGBA"), "PNG"),
        "palette": encoded(image.convert("P"), "PNG"),
        "WebP": encoded(image, "WEBP", lossless=True),
        "with bytes after its end": whole + b"\0" * 100,
    }


@pytest.mark.parametrize("kind", pictures())
def test_an_array_has_the_pixels_of_the_image(kind):
    data = pictures()[kind]
    array = open_array(data)
    image = open_upright(data)
    assert array.dtype == np.uint8
    assert array.shape == (image.height, image.width, 3)
    assert np.array_equal(array, np.asarray(image))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_sixteen_bits_of_grey_are_seen_as_their_eight_bit_version(orientation):
    grey = np.add.outer(np.arange(120), 2 * np.arange(64)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    eight, sixteen = (
        encoded(Image.fromarray(values), "PNG", exif=exif)
        for values in (grey, grey.astype(np.uint16) * 257)
    )
    assert Image.open(io.BytesIO(sixteen)).mode == "I;16"
    for opened in (open_array, open_upright, open_image, phash, inspect_photo):
        wanted, found = opened(eight), opened(sixteen)
        if isinstance(wanted, Image.Image):
            assert found.mode == "RGB"
            wanted, found = np.asarray(wanted), np.asarray(found)
        assert np.array_equal(found, wanted)


def test_a_jpeg_that_is_cut_short_is_decoded_as_pillow_decodes_it():
    data = pictures()["plain"]
    for kept in (len(data) // 2, len(data) - 2):
        outcomes = []
        for opened in (open_array, open_upright):
            try:
                outcomes.append(np.asarray(opened(data[:kept])).tobytes())
            except (OSError, CapError) as error:
                outcomes.append(type(error).__name__)
        assert outcomes[0] == outcomes[1]


def test_an_upright_image_can_be_used_as_any_other():
    image = open_upright(pictures()["plain"])
    whole = np.asarray(image).copy()
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(image))), whole)
    assert np.array_equal(np.asarray(image.crop((1, 2, 5, 6))), whole[2:6, 1:5])
    other = image.copy()
    image.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (1, 2, 3)
    assert np.array_equal(np.asarray(other), whole)


def test_photos_opened_by_many_threads_leave_the_filters_of_warnings_as_they_were():
    before = list(warnings.filters)
    photos = [pictures()["turned"], pictures()["palette"]] * 40
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(open_upright, photos))
    assert warnings.filters == before
