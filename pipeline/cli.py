"""The `cap` command: each stage parsed, called and summed up in one line.

Nothing heavy is imported here; a command imports its stage when it runs.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from annotation.parameters import (
    AgreementParameters,
    ExportParameters,
    ImportParameters,
    PullParameters,
    PushParameters,
    ServeParameters,
    StatusParameters,
)
from manifests import __version__
from manifests.errors import CapError, MissingExtraError
from pipeline.options import build, defaults_from, stage_options
from pipeline.parameters import (
    CollectParameters,
    DedupParameters,
    DiscoverParameters,
    EvaluateParameters,
    ExportReleaseParameters,
    MitigateParameters,
    ReleaseParameters,
    ReportParameters,
    ScoreParameters,
    SplitParameters,
)

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Outcome, Workspace

__all__ = ["cap", "main"]

_EXTRAS = {
    **dict.fromkeys(
        (
            "aiohttp",
            "duckdb",
            "faiss",
            "filelock",
            "fsspec",
            "imagehash",
            "jinja2",
            "matplotlib",
            "open_clip",
            "pandas",
            "platformdirs",
            "pyinaturalist",
            "pyrate_limiter",
            "requests",
            "rich",
            "scipy",
            "tenacity",
            "timm",
            "torch",
            "webdataset",
        ),
        "pipeline",
    ),
    **dict.fromkeys(("httpx", "krippendorff", "label_studio_sdk", "statsmodels"), "annotate"),
}


@dataclass
class Session:
    """What the options before the command say: which workspace, and how to speak."""

    folder: Path | None
    quiet: bool
    debug: bool

    def workspace(self) -> Workspace:
        from manifests.workspace import Workspace

        return Workspace.find(Path()) if self.folder is None else Workspace(self.folder)

    def progress(self) -> Progress:
        from manifests.progress import BarProgress, LineProgress, Progress

        if self.quiet:
            return Progress()
        return BarProgress() if sys.stderr.isatty() else LineProgress()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors that a person can act on into click's one-line errors."""
    try:
        yield
    except CapError as error:
        raise click.ClickException(str(error)) from error
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        msg = (
            f"this command needs {error.name}, which the core install leaves out; run "
            f"`pip install 'counteranimal-pipeline[{extra}]'`"
        )
        raise click.ClickException(str(MissingExtraError(msg))) from error


class _Recipe(click.Group):
    """A group whose commands take their defaults from the workspace's `cap.toml`."""

    def invoke(self, ctx: click.Context) -> Any:
        with _explained():
            session = Session(
                folder=None if ctx.params["workspace"] is None else Path(ctx.params["workspace"]),
                quiet=ctx.params["quiet"],
                debug=ctx.params["debug"],
            )
            ctx.obj = session
            recipe = _recipe_of(session)
            if recipe is not None:
                ctx.default_map = defaults_from(recipe[1], self, recipe[0])
        return super().invoke(ctx)


def _recipe_of(session: Session) -> tuple[Path, dict[str, Any]] | None:
    """Folder and content of the `cap.toml` in force, if there is one."""
    import tomllib

    starts = (session.folder,) if session.folder else (Path.cwd(), *Path.cwd().parents)
    for folder in starts:
        path = folder / "cap.toml"
        if path.is_file():
            try:
                return folder.resolve(), tomllib.loads(path.read_text("utf-8"))
            except (OSError, ValueError) as error:
                msg = f"{path} cannot be read: {error}"
                raise CapError(msg) from error
    return None


@click.group(cls=_Recipe, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cap")
@click.option("--workspace", metavar="DIR", help="workspace [default: the nearest with a cap.toml]")
@click.option("--quiet", is_flag=True, help="no progress, only the result")
@click.option("--debug", is_flag=True, help="show tracebacks")
def cap(**_: Any) -> None:
    """Build and release datasets that show how much a model leans on the background."""


Stage = Callable[["Workspace", Any, "Progress"], "Outcome"]


def _run_stage(parameters: Any, stage: Stage, as_json: bool = False) -> None:
    """Call a stage under the workspace's lock and print what it did."""
    ctx = click.get_current_context()
    session: Session = ctx.obj
    with _explained():
        workspace = session.workspace()
        with workspace.lock(ctx.command_path):
            outcome = stage(workspace, parameters, session.progress())
    _tell(outcome, as_json)


def _tell(outcome: Outcome, as_json: bool) -> None:
    """Print what a command did."""
    if as_json:
        click.echo(json.dumps({"stage": outcome.stage, "fresh": outcome.fresh, **outcome.facts}))
    else:
        fresh = " (up to date, skipped)" if outcome.fresh else ""
        first, _, rest = outcome.text.partition("\n")
        click.echo(f"{outcome.stage}: {first}{fresh}" + (f"\n{rest}" if rest else ""))


def _stage_command(
    group: click.Group, name: str, parameters: type
) -> Callable[[Callable[[], Stage]], click.Command]:
    """Make a command of a function that imports and gives the stage."""

    def decorate(load: Callable[[], Stage]) -> click.Command:
        @wraps(load)
        def callback(*, as_json: bool, **values: Any) -> None:
            with _explained():
                stage = load()
            _run_stage(build(parameters, values), stage, as_json)

        path = [group.name, name] if group is not cap else [name]
        options = stage_options(parameters, "_".join(["CAP", *map(str, path)]).upper())
        as_json = click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
        return group.command(name)(options(as_json(callback)))

    return decorate


@cap.command()
@click.argument("folder", required=False, default=".", metavar="[DIR]")
@click.option("--recipe", default="folder", show_default=True, help="the recipe to start from")
def init(folder: str, recipe: str) -> None:
    """Make a workspace: a folder with a cap.toml to edit."""
    from pipeline.recipes import write_recipe

    with _explained():
        path = write_recipe(Path(folder), recipe)
    click.echo(f"init: {path}; edit it, then `cap run`")


@_stage_command(cap, "collect", CollectParameters)
def collect() -> Stage:
    """Bring photos into the workspace, one row each, failures included."""
    from pipeline.collect import collect

    return collect


@_stage_command(cap, "dedup", DedupParameters)
def dedup() -> Stage:
    """Find photos that repeat another, and choose the one to keep."""
    from pipeline.dedup import dedup

    return dedup


@_stage_command(cap, "score", ScoreParameters)
def score() -> Stage:
    """Let a model name the animal in each kept photo."""
    from pipeline.score import score

    return score


@cap.group()
def annotate() -> None:
    """Ask people what they see in the photos, and bring in what they say."""


@_stage_command(annotate, "import", ImportParameters)
def annotate_import() -> Stage:
    """Read tags from a CSV, TSV or Parquet file, and settle the labels."""
    from annotation.imports import import_tags

    return import_tags


@annotate.command("serve")
@stage_options(ServeParameters, "CAP_ANNOTATE_SERVE")
@click.pass_obj
def annotate_serve(session: Session, /, **values: Any) -> None:
    """Run Label Studio on this machine for the workspace, until Ctrl+C."""
    from annotation.server import serve

    with _explained():
        # No lock: photos are sent and answers fetched while it runs.
        serve(session.workspace(), build(ServeParameters, values), session.progress())


@_stage_command(annotate, "push", PushParameters)
def annotate_push() -> Stage:
    """Send the photos that need people to Label Studio."""
    from annotation.push import push

    return push


@_stage_command(annotate, "pull", PullParameters)
def annotate_pull() -> Stage:
    """Bring the answers from Label Studio, and settle the labels."""
    from annotation.pull import pull

    return pull


@_stage_command(annotate, "status", StatusParameters)
def annotate_status() -> Stage:
    """Show how far the annotators are."""
    from annotation.status import status

    return status


@_stage_command(annotate, "agreement", AgreementParameters)
def annotate_agreement() -> Stage:
    """Measure how far annotators agree, and list the photos that they dispute."""
    from annotation.agreement import agreement

    return agreement


@_stage_command(annotate, "export", ExportParameters)
def annotate_export() -> Stage:
    """Write the labels or all annotations to a CSV, TSV or Parquet file."""
    from annotation.exports import export_tags

    return export_tags


@_stage_command(cap, "split", SplitParameters)
def split() -> Stage:
    """Choose each class's common and counter background."""
    from pipeline.split import split

    return split


@cap.command()
@stage_options(ReleaseParameters, "CAP_RELEASE")
@click.option("--verify", is_flag=True, help="read every byte of the release OUT again instead")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
@click.pass_obj
def release(session: Session, /, verify: bool, as_json: bool, **values: Any) -> None:
    """Write the split with its photos as Parquet, for `load_split`.

    To verify a release, no workspace is needed.
    """
    parameters = build(ReleaseParameters, values)
    if verify:
        with _explained():
            from pipeline.release.checksums import verify as verify_release

            outcome = verify_release(parameters.out, session.progress())
        _tell(outcome, as_json)
        return
    with _explained():
        from pipeline.release import release as write_release
    _run_stage(parameters, write_release, as_json)


@cap.command()
@stage_options(ExportReleaseParameters, "CAP_EXPORT")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
@click.pass_obj
def export(session: Session, /, as_json: bool, **values: Any) -> None:
    """Write a release's photos in a layout that other tools read.

    No workspace is needed.
    """
    with _explained():
        from pipeline.export import export as export_photos

        outcome = export_photos(build(ExportReleaseParameters, values), session.progress())
    _tell(outcome, as_json)


@_stage_command(cap, "discover", DiscoverParameters)
def discover() -> Stage:
    """Find what a model leans on in regions of the photos, without annotators."""
    from pipeline.discover import discover

    return discover


@_stage_command(cap, "mitigate", MitigateParameters)
def mitigate() -> Stage:
    """Fine-tune a model so that it leans less on what was discovered."""
    from pipeline.mitigate import mitigate

    return mitigate


@_stage_command(cap, "report", ReportParameters)
def report() -> Stage:
    """Write one page that shows what was collected, lost, chosen and found."""
    from pipeline.report import report

    return report


@cap.command()
@stage_options(EvaluateParameters, "CAP_EVALUATE")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
@click.pass_obj
def evaluate(session: Session, /, as_json: bool, **values: Any) -> None:
    """Measure models on a release: accuracies, drops, and how they compare.

    No workspace is needed.
    """
    with _explained():
        from pipeline.evaluate import evaluate as evaluate_models

        recipe = _recipe_of(session)
        outcome = evaluate_models(
            build(EvaluateParameters, values),
            recipe[0] if recipe else Path(),
            session.progress(),
        )
    _tell(outcome, as_json)


@cap.command()
@click.option("--failures", "only_failures", is_flag=True, help="list every failed row and why")
@click.option("--json", "as_json", is_flag=True, help="print the status as JSON")
@click.pass_obj
def status(session: Session, only_failures: bool, as_json: bool) -> None:
    """Show what the workspace holds: tables, classes, losses, tags."""
    from pipeline.status import failures, render
    from pipeline.status import status as read_status

    with _explained():
        workspace = session.workspace()
        if only_failures:
            rows = failures(workspace)
            lines = [f"{r['table']}  {r['photo_id']}: {r['error']}" for r in rows]
            text = json.dumps(rows) if as_json else "\n".join(lines or ["no failed rows"])
        else:
            facts = read_status(workspace)
            text = json.dumps(facts) if as_json else render(facts)
    click.echo(text)


_STAGES = ("collect", "dedup", "score", "annotate", "split", "release", "report")


@cap.command()
@click.option("--from", "first", type=click.Choice(_STAGES), default=_STAGES[0], help="first stage")
@click.option("--to", "last", type=click.Choice(_STAGES), default=_STAGES[-1], help="last stage")
@click.pass_context
def run(ctx: click.Context, first: str, last: str) -> None:
    """Run the stages in order, as cap.toml says; what is up to date is skipped."""
    if _STAGES.index(first) > _STAGES.index(last):
        msg = f"--from {first} comes after --to {last}"
        raise click.UsageError(msg)
    root = ctx.find_root()
    for name in _STAGES[_STAGES.index(first) : _STAGES.index(last) + 1]:
        try:
            if not _run_one(root, name):
                return
        except click.ClickException as error:
            msg = f"{error.message}\nWhen that is mended, go on with `cap run --from {name}`"
            raise click.ClickException(msg) from error


def _run_one(root: click.Context, name: str) -> bool:
    """Run one stage from the recipe; False where people must do something first."""
    if name == "annotate":
        return _run_annotate(root)
    if _external(root, name) or (name == "release" and _nothing_selected(root)):
        return True
    command = cap.commands[name]
    with command.make_context(name, [], parent=root) as sub:
        command.invoke(sub)
    return True


_TABLE_OF = {"collect": "photos", "dedup": "duplicates", "split": "split"}


def _external(root: click.Context, name: str) -> bool:
    """Whether a stage's table was put there by other means; says so."""
    with _explained():
        workspace = root.obj.workspace()
        if name == "score":
            runs = workspace.runs() if _default(root, "score", "model") is None else ()
            tables = tuple(f"predictions/{run}" for run in runs)
        else:
            tables = tuple(t for t in (_TABLE_OF.get(name),) if t is not None)
        external = [table for table in tables if workspace.state(table) == "external"]
    for table in external:
        click.echo(f"{name}: {table} was put there or changed by other means; used as it is")
    return bool(external)


def _nothing_selected(root: click.Context) -> bool:
    """Whether there is nothing to release; says so."""
    with _explained():
        empty = not root.obj.workspace().read("split").num_rows
    if empty:
        click.echo("release: no class was selected, so that there is nothing to release")
    return empty


def _default(root: click.Context, name: str, option: str) -> Any:
    """What an option of a command is when the command line does not say."""
    with cap.commands[name].make_context(name, [], parent=root) as context:
        return context.params[option]


def _run_annotate(root: click.Context) -> bool:
    """Import the file that the recipe names, or else ask people and hear what they have said."""
    with annotate.make_context("annotate", ["import"], parent=root) as group:
        with annotate.commands["import"].make_context("import", [], parent=group) as sub:
            if sub.params["file"] is not None:
                annotate.commands["import"].invoke(sub)
                return True
        if not os.environ.get("LABEL_STUDIO_API_KEY"):
            return _labels_there(root)
        before = _labelled(root)
        _invoke_all(group, "push", "pull")
        # What was answered of a photo that is in another class by now is no label any more, so
        # that it is asked about anew.
        if before - _labelled(root):
            _invoke_all(group, "push")
    return _people_are_done(root)


def _invoke_all(group: click.Context, *names: str) -> None:
    for name in names:
        with annotate.commands[name].make_context(name, [], parent=group) as sub:
            annotate.commands[name].invoke(sub)


def _labelled(root: click.Context) -> set[str]:
    """The photos that have a label, by photo_id."""
    with _explained():
        workspace = root.obj.workspace()
        return set(
            workspace.read("labels")["photo_id"].to_pylist() if workspace.has("labels") else ()
        )


def _labels_there(root: click.Context) -> bool:
    """Whether there are labels to go on with, where there is no way to ask anybody."""
    with _explained():
        workspace = root.obj.workspace()
        if workspace.has("labels"):
            state = workspace.state("labels")
            click.echo(f"annotate: labels are there ({state}); used as they are")
            return True
    click.echo(
        "annotate: the photos have no labels yet. Start `cap annotate serve`, set the two "
        "variables that it tells, and run `cap run` again: it sends the photos to Label Studio. "
        "Tags that exist already go into a file with the columns photo_id and background; name "
        "it under [annotate.import] in cap.toml"
    )
    return False


def _people_are_done(root: click.Context) -> bool:
    """Whether every photo has its label; says what people must do next."""
    from annotation.labels import unsettled

    with _explained():
        left = unsettled(root.obj.workspace())
    if left.waiting:
        url = os.environ.get("LABEL_STUDIO_URL", "Label Studio")
        click.echo(
            f"annotate: {left.waiting} photos wait for an answer at {url}. When people are done, "
            "run `cap run` again; to go on with the labels so far, `cap run --from split`"
        )
    if left.disputed:
        click.echo(
            f"annotate: people disagree on {left.disputed} photos. `cap annotate push "
            "--adjudicate` asks somebody to decide; to go on without them, `cap run --from split`"
        )
    return not left.waiting and not left.disputed


@cap.command()
@click.argument("folder", required=False, metavar="[DIR]")
@click.option("--seed", default=0, show_default=True, help="what the toy world is drawn from")
@click.option("--plant", default="shortcut", show_default=True, help="shortcut, or none")
@click.option(
    "--source",
    type=click.Choice(("folder", "inaturalist")),
    default="folder",
    show_default=True,
    help="collect from the folder, or from a local iNaturalist with its limits and with faults",
)
@click.pass_obj
def demo(session: Session, folder: str | None, seed: int, plant: str, source: str) -> None:
    """Draw toy animals with a planted shortcut, run every stage, and compare.

    DIR is demo/<plant>-<seed> unless named.
    """
    suffix = "" if source == "folder" else f"-{source}"
    place = Path(folder or f"demo/{plant}-{seed}{suffix}")
    with _explained():
        from manifests.workspace import Workspace
        from pipeline.demo.run import compare, prepare, serving, tell_requests

        prepare(place, seed, plant, session.progress())
        with serving(place, source, session.progress()):
            quiet = ["--quiet"] if session.quiet else []
            cap.main(
                ["--workspace", str(place), *quiet, "run"],
                standalone_mode=False,
                auto_envvar_prefix="CAP",
            )
        if source == "inaturalist":
            click.echo(f"\n{tell_requests(place)}")
    with _explained():
        findings = compare(Workspace(place))
    click.echo("\nplanted against found")
    for finding in findings:
        verdict = "ok" if finding.same else f"DIFFERS: found {finding.found}"
        click.echo(f"  {finding.what:22}{finding.planted:44} {verdict}")
    if not all(finding.same for finding in findings):
        msg = f"what was found is not what was planted; look at {place}"
        raise click.ClickException(msg)


def _fail(error: BaseException, debug: bool) -> NoReturn:
    """End with the contract's exit codes: 1 not done, 2 wrong usage, 130 interrupted."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        error.show()
        sys.exit(error.exit_code)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("\nInterrupted; the same command goes on where this one stopped", err=True)
        sys.exit(130)
    click.echo(
        f"Error: {type(error).__name__}: {error}\nThis is a fault of cap itself; "
        "`cap --debug …` shows where. Nothing done so far is lost",
        err=True,
    )
    sys.exit(1)


def main() -> None:
    """Entry point of the `cap` command."""
    # Arrow's own allocator keeps what was freed, tens of MB more in this process and each worker.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    debug = "--debug" in sys.argv[1:]
    try:
        cap.main(prog_name="cap", standalone_mode=False, auto_envvar_prefix="CAP")
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (Exception, KeyboardInterrupt) as error:  # the contract: no traceback unless --debug
        _fail(error, debug)
