"""The `cap` command: what it says, where its settings come from, and how it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, cap

from pipeline.cli import cap as root_command
from pipeline.options import defaults_from

POOL = "ARROW_DEFAULT_MEMORY_POOL"


def test_every_command_and_option_has_help():
    def walk(group):
        for command in group.commands.values():
            yield command
            if hasattr(command, "commands"):
                yield from walk(command)

    for command in walk(root_command):
        assert command.help, command.name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{command.name} {parameter.name}"


def test_help_and_the_loader_import_nothing_heavy():
    script = (
        "import sys; import pipeline.cli, manifests; "
        "heavy = {'torch', 'numpy', 'pyarrow', 'pandas', 'scipy', 'PIL', 'label_studio_sdk'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert "collect" in cap("--help", cwd=REPOSITORY).stdout


def test_speaking_to_label_studio_imports_nothing_that_only_its_exports_need():
    script = (
        "import sys; from annotation.client import Address, connect\n"
        "try:\n"
        "    with connect(Address('http://127.0.0.1:9', 'token')): pass\n"
        "except Exception as error: print(error)\n"
        "print(sorted({'boto3', 'jsf', 'pandas', 'smart_open'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    said, imported = done.stdout.splitlines()
    assert "does not answer" in said
    assert imported == "[]"


@pytest.mark.parametrize(("variables", "pool"), [({}, "system"), ({POOL: "mimalloc"}, "mimalloc")])
def test_what_tables_took_goes_back_to_the_system_unless_asked_otherwise(
    monkeypatch, variables, pool
):
    monkeypatch.delenv(POOL, raising=False)
    script = (
        "import sys; from pipeline.cli import main; sys.argv[1:] = ['--version']; main(); "
        "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == pool


def test_the_generated_pages_are_as_the_code_has_them():
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_flag_beats_variable_beats_file_beats_default(workspace, animals):
    def distance(*flags: str, **variables: str) -> int:
        for file in workspace.root.glob("manifests/duplicates.*"):
            file.unlink()
        cap("--quiet", "dedup", *flags, cwd=workspace.root, **variables)
        receipt = json.loads((workspace.root / "manifests" / "duplicates.json").read_text())
        return receipt["parameters"]["distance"]

    cap("collect", "--root", animals, cwd=workspace.root)
    assert distance() == 6
    (workspace.root / "cap.toml").write_text("[dedup]\ndistance = 5\n")
    assert distance() == 5
    assert distance(CAP_DEDUP_DISTANCE="4") == 4
    assert distance("--distance", "3", CAP_DEDUP_DISTANCE="4") == 3


def test_paths_in_the_file_start_at_the_workspace_and_arguments_have_variables_too(
    workspace, animals, tmp_path
):
    (workspace.root / "cap.toml").write_text('[collect]\nroot = "../animals"\n')
    cap("--workspace", workspace.root, "collect", cwd=REPOSITORY)
    (tmp_path / "tags.csv").write_text("path,background\nlion/0.jpg,grass\n")
    done = cap(
        "--workspace",
        workspace.root,
        "annotate",
        "import",
        cwd=REPOSITORY,
        CAP_ANNOTATE_IMPORT_FILE=str(tmp_path / "tags.csv"),
    )
    assert done.stdout.startswith("annotate import: 1 tags; 1 photos kept")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("[dedup]\ndistanc = 5\n", "[dedup] has no setting 'distanc'; did you mean 'distance'?"),
        ("[dedupe]\ndistance = 5\n", "no command is called dedupe"),
        ("[dedup\n", "cannot be read"),
        ("[annotate.imports]\nfile = 'x'\n", "no command is called annotate.imports"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_setting(workspace, recipe, message):
    (workspace.root / "cap.toml").write_text(recipe)
    done = cap("status", cwd=workspace.root, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["dedup"], 1, "no photos table yet; run `cap collect` first"),
        (["collect"], 1, "needs --root DIR"),
        (["collect", "--root", "nowhere"], 1, "nowhere is no folder"),
        (["collect", "--root", ".", "--dry-run"], 1, "are for photos from iNaturalist"),
        (["split"], 1, "no predictions of classes yet; run `cap score --model SPEC` first"),
        (["score"], 1, "scoring needs --model SPEC"),
        (["annotate", "import", "none.csv"], 1, "there is no tags file none.csv"),
        (["annotate", "export"], 1, "name the file to write"),
        (["annotate", "export", "labels.csv"], 1, "no labels table yet; run `cap annotate import"),
        (["annotate", "agreement"], 1, "no annotations table yet; run `cap annotate import FILE`"),
        (["release"], 1, "name the folder to write"),
        (["run", "--from", "split", "--to", "collect"], 2, "--from split comes after"),
        (["dedup", "--distance", "far"], 2, "'far' is not a valid integer"),
        (["collekt"], 2, "No such command 'collekt'"),
        (["init", "."], 1, "is a workspace already"),
        (
            ["init", "x", "--recipe", "cake"],
            1,
            "no recipe 'cake'; there are demo, demo-ina",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_the_contracts_exit_code(
    workspace, arguments, code, message
):
    done = cap(*arguments, cwd=workspace.root, check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_outside_a_workspace_the_way_to_make_one_is_named(tmp_path):
    done = cap("status", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "run `cap init DIR`" in done.stderr


def test_models_are_one_or_several_in_the_file_and_their_files_start_there(tmp_path):
    (tmp_path / "own.pt").touch()
    for models in ("timm:a:own.pt", ["timm:a:own.pt", "timm:b:own"]):
        found = defaults_from({"evaluate": {"model": models}}, root_command, tmp_path)
        expected = [f"timm:a:{tmp_path / 'own.pt'}", "timm:b:own"]
        assert found["evaluate"]["model"] == (expected[:1] if isinstance(models, str) else expected)
    spaces = ("imagenet1k", "confusing20", "classes", "mine.csv")
    found = [
        defaults_from({"evaluate": {"label_space": space}}, root_command, tmp_path)
        for space in spaces
    ]
    assert [f["evaluate"]["label_space"] for f in found] == [
        *spaces[:3],
        str(tmp_path / "mine.csv"),
    ]


def test_a_traceback_is_shown_on_request_only(workspace):
    assert "Traceback" in cap("--debug", "dedup", cwd=workspace.root, check=False).stderr


def test_init_makes_a_workspace_that_status_reads(tmp_path):
    cap("init", "study", cwd=tmp_path)
    done = cap("status", cwd=tmp_path / "study")
    assert "imagenet1k" in done.stdout


def test_status_tells_counts_and_failures_to_people_and_machines(workspace, animals):
    (animals / "lion" / "broken.jpg").write_bytes(b"no photo")
    cap("collect", "--root", animals, cwd=workspace.root)
    text = cap("status", cwd=workspace.root).stdout
    assert re.search(r"lion +5 +4 +1 ", text)
    facts = json.loads(cap("status", "--json", cwd=workspace.root).stdout)
    lion = next(row for row in facts["classes"] if row["class"] == "lion")
    assert (lion["asked"], lion["ok"], lion["failed"]) == (5, 4, 1)
    assert facts["failures"] == 1
    failures = cap("status", "--failures", cwd=workspace.root).stdout
    assert "folder:lion/broken.jpg: not an image" in failures


def test_json_is_the_only_thing_on_standard_output(workspace, animals):
    done = cap("collect", "--root", animals, "--json", cwd=workspace.root)
    assert json.loads(done.stdout) == {"stage": "collect", "fresh": False, "total": 12, "ok": 12}


def test_run_stops_at_annotate_and_says_what_people_must_do(workspace, animals):
    (workspace.root / "cap.toml").write_text('[collect]\nroot = "../animals"\n')
    cap("run", "--to", "dedup", cwd=workspace.root)
    done = cap("run", "--from", "annotate", cwd=workspace.root)
    assert "Tags that exist already go into a file" in done.stdout
    again = cap("run", "--to", "dedup", cwd=workspace.root)
    assert again.stdout.count("up to date, skipped") == 2


def test_a_failed_run_names_the_command_that_goes_on(workspace, animals):
    (workspace.root / "cap.toml").write_text('[collect]\nroot = "../animals"\n')
    done = cap("run", cwd=workspace.root, check=False)
    assert done.returncode == 1
    assert "scoring needs --model" in done.stderr
    assert "go on with `cap run --from score`" in done.stderr


def test_an_interrupt_ends_with_130_and_the_same_command_goes_on(workspace, tmp_path):
    from conftest import save_photo

    for number in range(400):
        save_photo(tmp_path / "many" / "lion" / f"{number}.jpg", number, size=(1200, 900))
    command = [sys.executable, "-m", "pipeline", "collect", "--root", str(tmp_path / "many")]
    process = subprocess.Popen(command, cwd=workspace.root, stderr=subprocess.PIPE, text=True)
    parts = workspace.parts_folder("photos")
    while process.poll() is None and not list(parts.rglob("*.parquet")):
        pass
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "goes on where this one stopped" in stderr
    assert "Traceback" not in stderr
    assert cap("collect", "--root", tmp_path / "many", cwd=workspace.root).stdout == (
        "collect: 400 photos\n"
    )


def test_the_core_install_names_the_extra_that_is_missing(tmp_path, workspace, animals):
    cap("collect", "--root", animals, cwd=workspace.root)
    (tmp_path / "tags.csv").write_text("path,background\nlion/0.jpg,grass\n")
    cap("annotate", "import", tmp_path / "tags.csv", cwd=workspace.root)
    # Hide the packages of the extras by an import hook, as on a machine without them.
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import sys\n"
        "HIDDEN = {'imagehash', 'torch', 'scipy', 'platformdirs', 'pyinaturalist', 'requests',\n"
        "          'statsmodels'}\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in HIDDEN:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    for extra, *command in (
        ("pipeline", "dedup"),
        ("pipeline", "collect", "--source", "inaturalist"),
        ("annotate", "annotate", "agreement"),
    ):
        done = cap(*command, cwd=workspace.root, check=False, PYTHONPATH=str(tmp_path))
        assert done.returncode == 1
        assert f"pip install 'counteranimal-pipeline[{extra}]'" in done.stderr


def test_a_full_disk_is_one_line_and_loses_nothing(workspace, animals):
    import resource

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "collect", "--root", str(animals)],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        preexec_fn=small_files_only,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: could not write")
    assert "Traceback" not in done.stderr
    leftovers = list((workspace.root / "photos").rglob("*.tmp"))
    assert leftovers == []
    assert cap("collect", "--root", animals, cwd=workspace.root).stdout == "collect: 12 photos\n"


def test_a_second_process_is_refused_in_one_line(workspace, animals):
    with workspace.lock("cap score"):
        done = cap("collect", "--root", animals, cwd=workspace.root, check=False)
    assert done.returncode == 1
    assert re.search(r"Error: .* is being written by `cap score` \(process \d+", done.stderr)
    assert Path(workspace.root / "manifests").exists() is False
