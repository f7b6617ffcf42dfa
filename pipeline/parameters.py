"""Parameters of every stage, one frozen dataclass each.

They are also the options of the `cap` commands, the sections of `cap.toml`, and the variables
`CAP_<STAGE>_<OPTION>`. This module imports nothing heavy, because `cap --help` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manifests.parameters import option

__all__ = [
    "CollectParameters",
    "DedupParameters",
    "DiscoverParameters",
    "EvaluateParameters",
    "ExportReleaseParameters",
    "MitigateParameters",
    "ReleaseParameters",
    "ReportParameters",
    "ScoreParameters",
    "SplitParameters",
]


def _engine() -> Any:
    return option("local", "processes of this machine, or a Ray cluster", choices=("local", "ray"))


def _ray_address() -> Any:
    return option(
        None,
        "the cluster [default: RAY_ADDRESS, else one of this machine alone]",
        metavar="HOST:PORT",
    )


def _photos_at() -> Any:
    return option(
        None,
        "folder or URL, such as s3://BUCKET/photos, with a copy of the workspace's photos/ "
        "[default: the workspace's own]",
        kind="path",
        metavar="PLACE",
    )


@dataclass(frozen=True)
class CollectParameters:
    """Parameters of `cap collect`; those after `workers` are for photos from iNaturalist."""

    source: str = option(
        "folder", "where the photos come from", choices=("folder", "inaturalist", "open-data")
    )
    root: str | None = option(
        None, "folder that holds ROOT/CLASS_NAME/*", kind="path", metavar="DIR"
    )
    classes: tuple[str, ...] = option(
        (), "classes to collect, separated by commas [default: all]", kind="list", metavar="A,B"
    )
    per_class: int | None = option(
        None, "at most N photos of a class [default: all of a folder, else 500]", kind="positive"
    )
    workers: int | None = option(None, "processes [default: one per core]", kind="natural")
    licenses: tuple[str, ...] = option(
        (),
        "licences of the photos to take [default: those that allow sharing]",
        kind="list",
        metavar="A,B",
    )
    photos_per_observation: int = option(1, "photos to take of one observation", metavar="N")
    observer_share: float = option(
        0.05,
        "largest share of a class that one observer may have; two photos are always allowed",
        metavar="FRACTION",
    )
    quality: str = option(
        "research",
        "quality grade of the observations",
        choices=("research", "needs_id", "casual", "any"),
    )
    captive: str = option(
        "no", "whether captive animals are taken, or only they", choices=("no", "yes", "only")
    )
    places: tuple[str, ...] = option(
        (), "iNaturalist's ids of places to keep to", kind="list", metavar="ID,ID"
    )
    since: str | None = option(None, "first day of observation", metavar="YYYY-MM-DD")
    until: str | None = option(None, "last day of observation", metavar="YYYY-MM-DD")
    size: str = option(
        "large",
        "longest side of the photos: 2048, 1024 or 500 pixels",
        choices=("original", "large", "medium"),
    )
    api_url: str = option(
        "https://api.inaturalist.org/v1", "address of the iNaturalist API", metavar="URL"
    )
    requests_per_minute: int = option(
        50, "requests to the API; iNaturalist asks for at most 60", metavar="N"
    )
    tables: str = option(
        "https://inaturalist-open-data.s3.amazonaws.com",
        "folder, URL or bucket (s3://…) with the Open Data tables",
        kind="path",
        metavar="PLACE",
    )
    photo_url: str = option(
        "https://inaturalist-open-data.s3.amazonaws.com/photos",
        "address of the Open Data photos",
        metavar="URL",
    )
    connections: int = option(32, "photos fetched at the same time from one host", metavar="N")
    gb_per_hour: float = option(5, "most gigabytes to fetch in any hour", metavar="GB")
    gb_per_day: float = option(24, "most gigabytes to fetch in any day", metavar="GB")
    refresh: bool = option(
        False, "ask again for the licence of every photo, and mark those that are gone"
    )
    dry_run: bool = option(False, "say what would be asked, with counts and gigabytes")


@dataclass(frozen=True)
class DedupParameters:
    """Parameters of `cap dedup`."""

    distance: int = option(
        6, "photos whose 64-bit pHash differs in at most N bits are near duplicates", metavar="N"
    )
    against: str | None = option(
        None,
        "folder of photos, or duplicates table, whose photos must not occur here",
        kind="path",
        metavar="DIR|TABLE",
    )
    embeddings: str | None = option(
        None,
        "scoring run whose embeddings, kept with --save-embeddings, show bursts and crops",
        metavar="RUN",
    )
    similarity: float = option(
        0.9,
        "photos whose embeddings have a cosine of at least S are near duplicates",
        metavar="S",
    )
    workers: int | None = option(None, "processes [default: one per core]", kind="natural")
    engine: str = _engine()
    ray_address: str | None = _ray_address()
    photos_at: str | None = _photos_at()


@dataclass(frozen=True)
class ScoreParameters:
    """Parameters of `cap score`."""

    model: str | None = option(
        None, "FAMILY:ARCHITECTURE[:WEIGHTS], weights a tag or a file", kind="model", metavar="SPEC"
    )
    label_space: str | None = option(
        None,
        "imagenet1k, backgrounds or a CSV file [default: the workspace's]",
        kind="path",
        metavar="SPACE",
    )
    prompts: str | None = option(
        None,
        "prompt template with {} for the class, or openai80 [default: the label space's own "
        "prompts, else 'A photo of {}.']",
        metavar="TEXT",
    )
    batch_size: int = option(
        64, "photos of a batch; one forward pass, or several on a CPU", kind="positive"
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps; auto takes the best there is")
    precision: str = option(
        "auto", "auto is bf16 on CUDA, else float32", choices=("auto", "float32", "bf16")
    )
    workers: int | None = option(
        None,
        "processes that decode beside the model [default: by cores, on a CPU none]",
        kind="natural",
    )
    engine: str = _engine()
    ray_address: str | None = _ray_address()
    photos_at: str | None = _photos_at()
    compile: bool = option(
        False, "have torch compile the model, with a C++ compiler: slow at first, then faster"
    )
    decode: str = option(
        "full",
        "decode large JPEGs in full, or at a scale reduced to thrice what the model is given, and "
        "have torch resize them",
        choices=("full", "reduced"),
    )
    save_scores: bool = option(False, "keep the scores over the whole label space")
    save_embeddings: bool = option(False, "keep the image embeddings, as float16")


@dataclass(frozen=True)
class SplitParameters:
    """Parameters of `cap split`."""

    model: str | None = option(
        None,
        "model whose predictions choose, as given to `cap score`, or the name of a run "
        "[default: the only run]",
        kind="model",
        metavar="SPEC",
    )
    rule: str = option(
        "controlled",
        "how common and counter are chosen: tested, on photos apart, or as in the paper",
        choices=("controlled", "paper"),
    )
    report_with: tuple[str, ...] = option(
        (),
        "another model, or name of a run, to report the pairs for; may be given several times",
        kind="models",
        metavar="SPEC",
    )
    min_photos: int = option(
        20,
        "photos that a background needs to be considered, in validation if controlled",
        metavar="N",
    )
    min_drop: float = option(
        0.05, "a class is kept when its accuracy drops by more than this", metavar="FRACTION"
    )
    fdr: float = option(
        0.05, "share of false classes to expect among those selected", metavar="FRACTION"
    )
    validation_share: float = option(
        0.5, "share of the photos that choose; the others tell the drop", metavar="FRACTION"
    )
    draws: int = option(10_000, "permutations for each class", metavar="N")
    exclude_mixed: bool = option(False, "leave out photos that have a second background")
    seed: int = option(0, "seed of the division and of the permutations", kind="natural")
    workers: int | None = option(None, "processes [default: one per core]", kind="natural")
    plan: bool = option(False, "say which photos people should tag next, and write only that")
    plan_drop: float = option(0.2, "drop that a plan is to find", metavar="FRACTION")
    plan_power: float = option(0.8, "chance of finding it that a plan aims at", metavar="FRACTION")


@dataclass(frozen=True)
class ReleaseParameters:
    """Parameters of `cap release`."""

    out: str | None = option(None, "folder to write", kind="path", argument=True)
    licenses: tuple[str, ...] = option(
        (),
        "licences whose photos are embedded, or any [default: those that allow sharing]",
        kind="list",
        metavar="A,B",
    )
    images: str = option(
        "embed",
        "photos as bytes, as links, or mixed: as links where their licence allows no bytes",
        choices=("embed", "link", "mixed"),
    )
    creator: str | None = option(None, "who made the dataset, to be named and cited")
    homepage: str | None = option(None, "where the dataset will be found", metavar="URL")
    published: str | None = option(
        None, "its day, as YYYY-MM-DD [default: that of the split]", metavar="DAY"
    )


@dataclass(frozen=True)
class ExportReleaseParameters:
    """Parameters of `cap export`."""

    release: str | None = option(None, "release to export", kind="path", argument=True)
    out: str | None = option(None, "folder to write", kind="path", argument=True)
    layout: str | None = option(
        None,
        "how the photos are laid out",
        choices=("counteranimal", "webdataset", "imagefolder", "fiftyone"),
    )
    shard_mb: float = option(
        500, "most megabytes of photos in an archive of the layout webdataset", metavar="MB"
    )


@dataclass(frozen=True)
class ReportParameters:
    """Parameters of `cap report`."""

    out: str | None = option(
        None,
        "file to write [default: reports/report.html in the workspace]",
        kind="path",
        metavar="FILE",
    )
    photos_per_group: int = option(
        6, "photos shown of each group, at most; fewer where there are many classes", metavar="N"
    )
    model: str | None = option(
        None,
        "model whose numbers are shown, as given to `cap score`, or the name of a run "
        "[default: the one that chose the groups]",
        kind="model",
        metavar="SPEC",
    )


@dataclass(frozen=True)
class EvaluateParameters:
    """Parameters of `cap evaluate`."""

    release: str | None = option(
        None, "release to evaluate on, or a folder as CounterAnimal's", kind="path", argument=True
    )
    model: tuple[str, ...] = option(
        (),
        "FAMILY:ARCHITECTURE[:WEIGHTS], weights a tag or a file; may be given several times",
        kind="models",
        metavar="SPEC",
    )
    label_space: str | None = option(
        None,
        "imagenet1k, confusing20, classes or a CSV file [default: the release's]",
        kind="path",
        metavar="SPACE",
    )
    partition: str = option("all", "photos to evaluate on", choices=("all", "validation", "test"))
    prompts: str | None = option(
        None,
        "prompt template with {} for the class, or openai80 [default: the label space's own "
        "prompts, else 'A photo of {}.']",
        metavar="TEXT",
    )
    batch_size: int = option(
        64, "photos of a batch; one forward pass, or several on a CPU", kind="positive"
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps; auto takes the best there is")
    precision: str = option(
        "auto", "auto is bf16 on CUDA, else float32", choices=("auto", "float32", "bf16")
    )
    workers: int | None = option(
        None,
        "processes that decode beside the model [default: by cores, on a CPU none]",
        kind="natural",
    )
    resamples: int = option(1000, "bootstrap resamples behind the intervals", kind="positive")
    seed: int = option(0, "seed of the bootstrap", kind="natural")
    out: str | None = option(
        None,
        "folder for the results [default: results/ in the workspace, else here]",
        kind="path",
        metavar="DIR",
    )
    cache: str | None = option(
        None,
        "folder for what models made of photos [default: below the user's cache]",
        kind="path",
        metavar="DIR",
    )


@dataclass(frozen=True)
class DiscoverParameters:
    """Parameters of `cap discover`."""

    model: str | None = option(
        None,
        "model whose errors are explained, as given to `cap score`, or the name of a run "
        "[default: the only run]",
        kind="model",
        metavar="SPEC",
    )
    grid: int = option(
        2, "regions are a grid of N rows and columns over what the model sees", metavar="N"
    )
    boxes: str | None = option(
        None,
        "file of regions instead: photo_id, path or sha256, and left, top, right, bottom in pixels",
        kind="path",
        metavar="FILE",
    )
    embed: str = option(
        "crop",
        "cut regions out and encode each, or pool them over the feature map of one pass",
        choices=("crop", "pool"),
    )
    clusters: str | None = option(
        None,
        "numbers of clusters to try, as FIRST-LAST [default: 2 to 5 times the classes]",
        metavar="K-K",
    )
    min_influence: float = option(
        0.25, "share of the errors where it hurts that a cluster must decide", metavar="FRACTION"
    )
    two_sided: bool = option(True, "keep only clusters that help one class and hurt another")
    exact_up_to: int = option(
        10_000, "regions that are all compared with each other; of more, so many", metavar="N"
    )
    draws: int = option(10_000, "permutations behind each p-value", metavar="N")
    resamples: int = option(1000, "bootstrap resamples behind the intervals", metavar="N")
    seed: int = option(0, "seed of all that is drawn", kind="natural")
    batch_size: int = option(64, "photos or regions of a batch", kind="positive")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps; auto takes the best there is")
    precision: str = option(
        "auto", "auto is bf16 on CUDA, else float32", choices=("auto", "float32", "bf16")
    )
    workers: int | None = option(
        None,
        "processes that decode beside the model [default: by cores, on a CPU none]",
        kind="natural",
    )
    engine: str = _engine()
    ray_address: str | None = _ray_address()
    photos_at: str | None = _photos_at()


@dataclass(frozen=True)
class MitigateParameters:
    """Parameters of `cap mitigate`."""

    model: str | None = option(
        None,
        "model to fine-tune, as given to `cap score`, or the name of a run [default: the only run]",
        kind="model",
        metavar="SPEC",
    )
    discovery: tuple[str, ...] = option(
        (),
        "numbers of the clusters that are spurious [default: the one of rank 1]",
        kind="list",
        metavar="ID,ID",
    )
    method: str = option(
        "region-aware",
        "RaVL's losses, or a baseline",
        choices=("region-aware", "finetune", "upsample", "erm", "gdro"),
    )
    interpolate: float = option(
        1.0, "share of the fine-tuned weights beside the original ones", metavar="FRACTION"
    )
    epochs: int = option(5, "times that each photo is seen", metavar="N")
    batch_size: int = option(64, "photos of a step, with all their regions", kind="positive")
    learning_rate: float = option(1e-5, "of AdamW; it falls to 0 along a cosine", metavar="LR")
    weight_decay: float = option(0.2, "of AdamW", metavar="N")
    contrast: str = option(
        "clip",
        "loss of photos and captions: CLIP's, or over classes, where those of one do not repel",
        choices=("clip", "class"),
    )
    loss_weight: float = option(
        0.8, "share of that loss beside the region-aware ones", metavar="FRACTION"
    )
    temperature: float = option(0.07, "of the region-aware losses", metavar="T")
    candidates: str = option(
        "distinct",
        "labels of a batch that compete: each once, or one for each photo",
        choices=("distinct", "multiset"),
    )
    reduction: str = option(
        "mean", "how the photos' losses are put together", choices=("mean", "sum")
    )
    all_spurious: str = option(
        "skip",
        "photos without other regions have no loss, or keep these as relevant",
        choices=("skip", "relevant"),
    )
    spurious_gradient: bool = option(True, "push spurious regions away from labels")
    assign: str = option(
        "once",
        "regions are spurious by the model as it was, or by the medoid nearest at each step",
        choices=("once", "live"),
    )
    held_out: float = option(
        0.3,
        "share of the photographers whose photos are kept apart, where no split has test photos",
        metavar="FRACTION",
    )
    seed: int = option(0, "seed of the order, and of what is kept apart", kind="natural")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps; auto takes the best there is")
    precision: str = option(
        "auto", "auto is bf16 on CUDA, else float32", choices=("auto", "float32", "bf16")
    )
    workers: int | None = option(
        None,
        "processes that decode beside the model [default: by cores, on a CPU none]",
        kind="natural",
    )
