"""A workspace keeps what is done: resume equals an undisturbed run, and two writers never meet."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from conftest import REPOSITORY
from hypothesis import HealthCheck, given, settings

from manifests.errors import CapError, LockedError, TableError
from manifests.progress import Progress
from manifests.schema import DUPLICATES, LABELS, PHOTOS
from manifests.tables import from_rows, table_digest, write_table
from manifests.workspace import Job, Run, Workspace

ITEMS = [f"photo-{number:03d}" for number in range(100)]


def duplicates_of(items) -> pa.Table:
    rows = [
        {"photo_id": item, "status": "ok", "phash": int(item[-3:]), "relation": "unique"}
        for item in items
    ]
    return from_rows(rows, DUPLICATES.schema)


def job(**changes) -> Job:
    described = {
        "table": "duplicates",
        "stage": "dedup",
        "parameters": {"distance": 6},
        "inputs": {"photos": "abc"},
    }
    return Job(**{**described, **changes})


def work(run: Run, upto: int | None = None, unit: int = 7) -> None:
    """Do the batches, and stop before the one numbered `upto` as a kill would."""
    for done, (index, batch) in enumerate(run.batches(ITEMS, unit, Progress())):
        if done == upto:
            return
        run.save(index, duplicates_of(batch))
    run.commit(run.saved())


def test_a_table_with_its_receipt_is_fresh_for_the_same_job_only(workspace: Workspace):
    work(workspace.begin(job()))
    assert workspace.begin(job()).fresh
    assert not Run(workspace, job(parameters={"distance": 7})).fresh
    assert not Run(workspace, job(inputs={"photos": "abd"})).fresh


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    stops=st.lists(st.tuples(st.integers(0, 14), st.sampled_from([1, 5, 7, 64])), max_size=5),
    last=st.sampled_from([1, 5, 7, 64]),
)
def test_a_run_that_was_stopped_gives_the_same_table_and_repeats_only_the_batch_in_flight(
    stops, last, tmp_path_factory
):
    tables, receipts = [], []
    for attempts in (stops, []):
        root = tmp_path_factory.mktemp("workspace")
        (root / "cap.toml").touch()
        workspace = Workspace(root)
        for stop, unit in attempts:
            work(workspace.begin(job()), stop, unit)
            if workspace.receipt("duplicates"):
                break
        else:
            work(workspace.begin(job()), unit=last)
        tables.append(table_digest(workspace.read("duplicates")))
        receipts.append(workspace.receipt("duplicates"))
        assert not workspace.parts_folder("duplicates").exists()
    assert tables[0] == tables[1]
    counted = receipts[0].work
    assert counted["batches_started"] <= counted["batches"] + counted["attempts"] - 1


def test_a_commit_that_fails_leaves_the_receipt_of_other_sources(workspace, monkeypatch):
    own = from_rows([photo("a", "folder")], PHOTOS.schema)
    other = from_rows([photo("b", "inaturalist")], PHOTOS.schema)
    workspace.begin(job(table="photos", source="inaturalist")).commit(other)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("manifests.workspace.write_validated", full)
        with pytest.raises(OSError, match="No space"):
            workspace.begin(job(table="photos", source="folder")).commit(own)
    workspace.begin(job(table="photos", source="folder")).commit(own)
    assert set(workspace.receipt("photos").sources) == {"folder", "inaturalist"}


def test_at_most_200_batches_are_made_however_many_photos_there_are(workspace: Workspace):
    batches = workspace.begin(job()).open_batches(range(1_000_001), 64)
    assert len(batches) <= 200
    assert {len(batch) % 64 for _, batch in batches[:-1]} == {0}
    assert sum(len(batch) for _, batch in batches) == 1_000_001


def in_batches(workspace: Workspace, rows: list[dict[str, object]], unit: int = 10) -> Run:
    """A run at work on `photos` that has saved its batches, each of `unit` rows."""
    run = workspace.begin(job(table="photos", stage="collect", source="folder"))
    for index, batch in run.batches(rows, unit, Progress()):
        run.save(index, from_rows(batch, PHOTOS.schema))
    return run


@pytest.mark.parametrize("count", [0, 1, 70, 100])
def test_what_was_saved_comes_back_sorted_with_further_rows_among_it(workspace: Workspace, count):
    rows = [photo(name, "folder") for name in random.Random(0).sample(ITEMS, len(ITEMS))]
    saved, further = rows[:count], from_rows(rows[count:], PHOTOS.schema)
    table = in_batches(workspace, saved).saved(further)
    assert table.schema == PHOTOS.schema
    assert table["photo_id"].to_pylist() == sorted(ITEMS)


def test_a_batch_cut_short_is_an_error_that_names_it(workspace: Workspace):
    run = in_batches(workspace, [photo(name, "folder") for name in ITEMS])
    part = run.folder / "00001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"00001\.parquet is not a whole Parquet file"):
        run.saved()


def memory_of_a_commit(root: Path) -> tuple[int, int]:
    """Bytes of a table, and the most that Arrow had in memory while it was made and written."""
    texts = ("url", "attribution", "creator", "sha256", "path", "observation_id", "taxon")
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20_000)]
    rows = [photo(name, "folder") | dict.fromkeys(texts, name) for name in names]
    run = in_batches(Workspace(root), rows, unit=1000)
    table = run.saved()
    run.commit(table)
    return table.nbytes, pa.default_memory_pool().max_memory()


def test_a_table_is_made_and_written_with_its_rows_in_memory_once(workspace: Workspace):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        size, most = pool.apply(memory_of_a_commit, (workspace.root,))
    assert size > 10_000_000
    assert most < 2 * size


def test_a_kill_between_table_and_receipt_is_finished_by_the_next_run(workspace: Workspace):
    work(workspace.begin(job()))
    receipt = workspace.receipt_path("duplicates")
    whole = workspace.read("duplicates")
    # As if killed before the receipt: the batches are there still.
    receipt.unlink()
    run = Run(workspace, job())
    run.start()
    for index, batch in run.batches(ITEMS, 7, Progress()):
        run.save(index, duplicates_of(batch))
    assert workspace.state("duplicates") == "unfinished"
    work(workspace.begin(job()))
    assert workspace.state("duplicates") == "fresh"
    assert workspace.read("duplicates").equals(whole)


def test_a_table_put_there_by_other_means_is_used_and_never_overwritten(workspace: Workspace):
    write_table(workspace.table_path("duplicates"), duplicates_of(ITEMS), DUPLICATES)
    assert workspace.state("duplicates") == "external"
    assert workspace.read("duplicates").num_rows == 100
    with pytest.raises(CapError, match="by other means; it is used as it is"):
        workspace.begin(job())


def test_a_table_changed_behind_its_receipt_counts_as_external(workspace: Workspace):
    work(workspace.begin(job()))
    write_table(workspace.table_path("duplicates"), duplicates_of(ITEMS[:50]), DUPLICATES)
    assert workspace.state("duplicates") == "external"


def photo(photo_id: str, source: str) -> dict[str, str]:
    return {
        "photo_id": photo_id,
        "source": source,
        "class_name": "lion",
        "license": "cc0",
        "status": "ok",
    }


def test_a_run_replaces_only_the_rows_of_its_own_source(workspace: Workspace):
    for source, ids in (("folder", "ab"), ("inaturalist", "cd"), ("folder", "be")):
        rows = [photo(f"{source}:{name}", source) for name in ids]
        union = job(
            table="photos", stage="collect", source=source, inputs={"listing": f"{source}{ids}"}
        )
        run = workspace.begin(union)
        assert not run.fresh
        run.commit(from_rows(rows, PHOTOS.schema))
    assert workspace.read("photos")["photo_id"].to_pylist() == [
        "folder:b",
        "folder:e",
        "inaturalist:c",
        "inaturalist:d",
    ]
    assert set(workspace.receipt("photos").sources) == {"folder", "inaturalist"}
    again = job(
        table="photos", stage="collect", source="inaturalist", inputs={"listing": "inaturalistcd"}
    )
    assert workspace.begin(again).fresh


def test_rows_that_went_with_a_removed_table_are_made_again_by_their_source(workspace: Workspace):
    jobs = {name: job(table="photos", source=name) for name in ("folder", "inaturalist")}
    for name, union in jobs.items():
        workspace.begin(union).commit(from_rows([photo(f"{name}:a", name)], PHOTOS.schema))
    assert all(workspace.begin(union).fresh for union in jobs.values())
    workspace.table_path("photos").unlink()
    rows = from_rows([photo("inaturalist:a", "inaturalist")], PHOTOS.schema)
    workspace.begin(jobs["inaturalist"]).commit(rows)
    assert workspace.begin(jobs["inaturalist"]).fresh
    assert not workspace.begin(jobs["folder"]).fresh


def test_a_commit_leaves_the_batches_of_other_sources_alone(workspace: Workspace):
    def union(source: str, listing: str) -> Job:
        return job(table="photos", stage="collect", source=source, inputs={"listing": listing})

    def begin(source: str, listing: str) -> tuple[Run, pa.Table]:
        run = workspace.begin(union(source, listing))
        run.open_batches(["a"], 1)
        return run, from_rows([photo(f"{source}:a", source)], PHOTOS.schema)

    for source, listing in (("inaturalist", "old"), ("inaturalist", "new")):
        stopped, rows = begin(source, listing)
        stopped.save(0, rows)
    folder, rows = begin("folder", "own")
    folder.commit(rows)
    again = workspace.begin(union("inaturalist", "new"))
    assert again.open_batches(["a"], 1) == []
    again.commit(again.saved())
    assert workspace.read("photos")["photo_id"].to_pylist() == ["folder:a", "inaturalist:a"]
    # What an earlier run of the same source had left goes too.
    assert not workspace.parts_folder("photos").exists()


def test_what_one_source_has_left_does_not_make_an_edited_union_unfinished(workspace: Workspace):
    def union(source: str) -> Job:
        return job(table="photos", stage="collect", source=source)

    workspace.begin(union("inaturalist"))
    run = workspace.begin(union("folder"))
    run.commit(from_rows([photo("folder:a", "folder")], PHOTOS.schema))
    assert workspace.state("photos") == "fresh"
    edited = from_rows([photo("folder:a", "folder") | {"license": "cc-by"}], PHOTOS.schema)
    write_table(workspace.table_path("photos"), edited, PHOTOS)
    assert workspace.state("photos") == "external"


def test_a_receipt_tells_what_the_table_was_made_from(workspace: Workspace):
    work(workspace.begin(job(seed=3)))
    receipt = json.loads(workspace.receipt_path("duplicates").read_text())
    assert receipt["stage"] == "dedup"
    assert receipt["parameters"] == {"distance": 6}
    assert receipt["inputs"] == {"photos": "abc"}
    assert receipt["rows"] == {"total": 100, "ok": 100}
    assert receipt["seed"] == 3
    assert receipt["digest"] == table_digest(workspace.read("duplicates"))
    assert receipt["versions"]["pyarrow"] == pa.__version__
    assert receipt["started_at"] < receipt["ended_at"]


def test_a_missing_table_names_the_command_that_makes_it(workspace: Workspace):
    with pytest.raises(TableError, match=r"no labels table yet; run `cap annotate import FILE`"):
        workspace.read("labels")


def test_a_damaged_receipt_is_an_error_that_names_it(workspace: Workspace):
    work(workspace.begin(job()))
    workspace.receipt_path("duplicates").write_text('{"table": ')
    with pytest.raises(TableError, match=r"duplicates\.json is not a receipt"):
        workspace.state("duplicates")


def test_a_folder_without_a_recipe_is_no_workspace(tmp_path: Path):
    with pytest.raises(CapError, match=r"is no workspace .*cap init"):
        Workspace(tmp_path)


def test_the_nearest_parent_with_a_recipe_is_the_workspace(workspace: Workspace):
    deep = workspace.root / "photos" / "ab"
    deep.mkdir(parents=True)
    assert Workspace.find(deep).root == workspace.root


def hold_lock(root: Path, ready, leave) -> None:
    with Workspace(root).lock("cap score"):
        ready.set()
        leave.wait()


def test_a_second_process_is_told_who_holds_the_lock_and_a_kill_frees_it(workspace: Workspace):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=hold_lock, args=(workspace.root, ready, leave))
    holder.start()
    assert ready.wait(30)
    with (
        pytest.raises(LockedError, match=f"`cap score` .process {holder.pid}, since"),
        workspace.lock("cap dedup"),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with workspace.lock("cap dedup"):
        assert "cap dedup" in (workspace.root / ".cap" / "lock").read_text()
    assert (workspace.root / ".cap" / "lock").read_text() == ""


def test_forked_workers_do_not_hold_the_lock_of_a_killed_parent(workspace: Workspace):
    script = f"""
import os, time
from pathlib import Path
from manifests.workspace import Workspace
with Workspace(Path({str(workspace.root)!r})).lock("cap score"):
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""
    out = workspace.root / "pid"
    with out.open("w") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=REPOSITORY, stdout=stdout, check=False
        )
    assert done.returncode == -signal.SIGKILL
    child = int(out.read_text())
    try:
        with workspace.lock("cap dedup"):
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_table_that_is_not_in_the_schema_is_refused_before_anything_is_written(workspace):
    run = workspace.begin(job(table="labels", stage="annotate import"))
    wrong = from_rows([{"photo_id": "a", "decision": "keep"}], LABELS.schema)
    with pytest.raises(TableError, match="'annotators' has 1 nulls"):
        run.commit(wrong)
    assert not workspace.has("labels")
