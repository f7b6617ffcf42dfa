"""What a table is: one `pyarrow.Schema` per table, with a line of meaning for each column.

A `TableSchema` knows its key, which columns may be left out, and which words a column may hold.
`docs/tables.md` is generated from here. Ids are strings, times are UTC microseconds, fractions run
from 0 to 1. Nullable columns say when they are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

__all__ = [
    "COMPARISONS",
    "CONFIRMATIONS",
    "CONFUSING",
    "DISCOVERIES",
    "IMAGE_TYPE",
    "MITIGATIONS",
    "REGIONS",
    "RESULTS",
    "SCHEMA_VERSION",
    "TABLES",
    "TableSchema",
    "table_schema",
]

SCHEMA_VERSION = 1
"""Raised when a column is dropped, renamed or changes its type; written into every Parquet file."""

_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class TableSchema:
    """The contract of one table.

    Attributes
    ----------
    name
        File name below `manifests/`, without `.parquet`.
    summary
        One sentence: a row is what, and who writes it.
    key
        Columns that identify a row; tables are sorted by them.
    schema
        Arrow schema; each field's metadata holds its meaning under `doc`.
    optional
        Columns that a file may leave out.
    choices
        For columns with a closed vocabulary, the words allowed.
    """

    name: str
    summary: str
    key: tuple[str, ...]
    schema: pa.Schema
    optional: frozenset[str] = frozenset()
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def meaning(self, column: str) -> str:
        """The line of meaning of a column."""
        return str((self.schema.field(column).metadata or {})[b"doc"], "utf-8")

    def metadata(self) -> dict[bytes, bytes]:
        """Parquet key-value metadata that marks a file as this table at this schema version."""
        return {b"cap.table": self.name.encode(), b"cap.schema_version": b"%d" % SCHEMA_VERSION}


def _column(name: str, kind: pa.DataType, doc: str, *, required: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=not required, metadata={"doc": doc})


def _required(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return _column(name, kind, doc, required=True)


_STATUS = _required("status", pa.string(), "`ok` or `failed`")
_ERROR = _column("error", pa.string(), "why the row failed, in words; null when ok")
_PHOTO_ID = _required("photo_id", pa.string(), "`folder:<path below the root>`, `inaturalist:<id>`")
_CLASS_INDEX = _required("class_index", pa.int32(), "position of the class in the label space")
_CLASS_NAME = _required("class_name", pa.string(), "name of the class in the label space")
_RUN = _required("run", pa.string(), "the scoring run, a file below `manifests/predictions/`")

PHOTOS = TableSchema(
    name="photos",
    summary="Every photo asked for, failures included; written by `cap collect`.",
    key=("photo_id",),
    schema=pa.schema(
        [
            _PHOTO_ID,
            _required("source", pa.string(), "`folder`, `inaturalist` or `open-data`"),
            _column("observation_id", pa.string(), "observation that the photo belongs to"),
            _column("class_index", pa.int32(), "class asked for; null outside the label space"),
            _required("class_name", pa.string(), "name of the class asked for"),
            _column("taxon", pa.string(), "scientific name given by the source"),
            _column("taxon_id", pa.string(), "the source's id of the taxon"),
            _column("taxon_rank", pa.string(), "rank of the taxon: species, genus, …"),
            _column("url", pa.string(), "where the bytes came from; null for files"),
            _required("license", pa.string(), "licence code of the photo itself, or `unknown`"),
            _column("attribution", pa.string(), "credit line to print with the photo"),
            _column("creator", pa.string(), "name of the photographer"),
            _column("creator_id", pa.string(), "the source's id of the photographer"),
            _column("observed_at", _TIME, "when the photo was taken"),
            _column("uploaded_at", _TIME, "when the source received it"),
            _STATUS,
            _ERROR,
            _column(
                "transient",
                pa.bool_(),
                "whether the failure may pass, so that the next run asks again; null when ok",
            ),
            _column("sha256", pa.string(), "digest of the original bytes; null if none came"),
            _column("path", pa.string(), "file in the workspace, below it; null unless ok"),
            _column("bytes", pa.int64(), "size of the original file in bytes"),
            _column("width", pa.int32(), "width upright, in pixels; null unless ok"),
            _column("height", pa.int32(), "height upright, in pixels; null unless ok"),
            _column("format", pa.string(), "`jpeg`, `png` or `webp`, by content; null unless ok"),
            _column("fetched_at", _TIME, "when the bytes were stored"),
        ]
    ),
    optional=frozenset({"transient"}),
    choices={"status": ("ok", "failed")},
)

DUPLICATES = TableSchema(
    name="duplicates",
    summary="Every stored photo, and whether it repeats another; written by `cap dedup`.",
    key=("photo_id",),
    schema=pa.schema(
        [
            _PHOTO_ID,
            _STATUS,
            _ERROR,
            _column("phash", pa.uint64(), "64-bit perceptual hash; null when it failed"),
            _column(
                "relation", pa.string(), "`unique`, `keeper`, `exact` or `near`; null when failed"
            ),
            _column("keeper", pa.string(), "photo_id kept instead, or of the photo itself"),
            _column(
                "distance",
                pa.uint8(),
                "Hamming distance to the keeper in bits; may exceed the threshold through a chain",
            ),
            _column("reason", pa.string(), "why this photo or its keeper was kept, in words"),
            _column(
                "similarity",
                pa.float32(),
                "cosine to the keeper in a run's embeddings; null unless it links them",
            ),
            _column("sha256", pa.string(), "the photo's bytes when it was compared"),
        ]
    ),
    optional=frozenset({"similarity", "sha256"}),
    choices={"status": ("ok", "failed"), "relation": ("unique", "keeper", "exact", "near")},
)

ANNOTATIONS = TableSchema(
    name="annotations",
    summary="What each person said of each photo; written by `cap annotate`.",
    key=("photo_id", "annotator", "round"),
    schema=pa.schema(
        [
            _PHOTO_ID,
            _required("annotator", pa.string(), "who tagged the photo"),
            _required("round", pa.string(), "`first` or `adjudication`"),
            _required("decision", pa.string(), "`keep`, `reject` or `skip` (not decided)"),
            _column(
                "reject_reasons",
                pa.list_(pa.string()),
                "of label_noise, feature_noise, ambiguity, clarity; null unless rejected",
            ),
            _column("background", pa.string(), "background label; null: none fits, or not kept"),
            _column("background_second", pa.string(), "second background, where two share a photo"),
            _column("note", pa.string(), "free text of the annotator"),
            _column("seconds", pa.float64(), "time spent on the photo, in seconds"),
            _column("created_at", _TIME, "when the answer was first given"),
            _column("updated_at", _TIME, "when the answer was last changed"),
            _required("source", pa.string(), "`import:<file name>` or `label-studio`"),
            _column(
                "source_id", pa.string(), "line of the file, or `<project>/<answer>` on the server"
            ),
            _column("config_version", pa.string(), "version of the labelling screen"),
            _column("suggested_background", pa.string(), "background that the screen suggested"),
            _column("suggestion_accepted", pa.bool_(), "whether the suggestion was taken"),
        ]
    ),
    choices={
        "round": ("first", "adjudication"),
        "decision": ("keep", "reject", "skip"),
    },
)

LABELS = TableSchema(
    name="labels",
    summary="The settled answer for each photo; written by `cap annotate` from `annotations`.",
    key=("photo_id",),
    schema=pa.schema(
        [
            _PHOTO_ID,
            _required("decision", pa.string(), "`keep` or `reject`"),
            _column("background", pa.string(), "background label; null: none fits, or rejected"),
            _column("background_second", pa.string(), "second background, where two share a photo"),
            _required("annotators", pa.int32(), "people who decided on the photo"),
            _required("agreement", pa.float64(), "share of them that agrees with this answer"),
            _required(
                "settled_by", pa.string(), "`single`, `majority`, `adjudication` or `import`"
            ),
        ]
    ),
    choices={
        "decision": ("keep", "reject"),
        "settled_by": ("single", "majority", "adjudication", "import"),
    },
)

PREDICTIONS = TableSchema(
    name="predictions",
    summary="What one model says of each photo; written by `cap score`, one file per run.",
    key=("photo_id",),
    schema=pa.schema(
        [
            _PHOTO_ID,
            _STATUS,
            _ERROR,
            _required("label_space", pa.string(), "label space that the model chose from"),
            _column("predicted_index", pa.int32(), "class with the highest score"),
            _column("predicted_name", pa.string(), "name of that class"),
            _column(
                "correct",
                pa.bool_(),
                "whether it is the photo's class; null in a label space without that class",
            ),
            _column("target_rank", pa.int32(), "rank of the photo's class, 1 is best"),
            _column("target_score", pa.float32(), "its score: cosine, or logit for classifiers"),
            _column("margin", pa.float32(), "target_score minus the best other score"),
            _column("scores", pa.list_(pa.float32()), "scores over the label space, in its order"),
            _column(
                "embedding",
                pa.list_(pa.float16()),
                "image embedding of unit length (fixed-size list)",
            ),
        ]
    ),
    optional=frozenset({"scores", "embedding"}),
    choices={"status": ("ok", "failed")},
)

GROUPS = TableSchema(
    name="groups",
    summary="Accuracy for each class on each background; written by `cap split`.",
    key=("run", "class_index", "background"),
    schema=pa.schema(
        [
            _RUN,
            _CLASS_INDEX,
            _required("background", pa.string(), "background label"),
            _CLASS_NAME,
            _required("photos", pa.int32(), "photos kept, scored and without duplicates"),
            _required("correct", pa.int32(), "those that the model names correctly"),
            _required("accuracy", pa.float64(), "correct / photos"),
            _required("ci_low", pa.float64(), "lower end of Wilson's 95 % interval"),
            _required("ci_high", pa.float64(), "upper end of Wilson's 95 % interval"),
            _column("validation_photos", pa.int32(), "of the photos, those that may choose a pair"),
            _column("validation_correct", pa.int32(), "of those, the ones named correctly"),
        ]
    ),
    optional=frozenset({"validation_photos", "validation_correct"}),
)

PAIRS = TableSchema(
    name="pairs",
    summary="For each class its common and counter background, or why it has none.",
    key=("run", "class_index"),
    schema=pa.schema(
        [
            _RUN,
            _CLASS_INDEX,
            _CLASS_NAME,
            _column("common_background", pa.string(), "background that the model does best on"),
            _column("counter_background", pa.string(), "background that it does worst on"),
            _column("common_photos", pa.int32(), "photos in the common group"),
            _column("counter_photos", pa.int32(), "photos in the counter group"),
            _column("common_accuracy", pa.float64(), "accuracy in the common group"),
            _column("counter_accuracy", pa.float64(), "accuracy in the counter group"),
            _column("drop", pa.float64(), "common_accuracy minus counter_accuracy"),
            _column("drop_honest", pa.float64(), "drop on photos that did not choose the pair"),
            _column("drop_ci_low", pa.float64(), "lower end of the interval of drop_honest"),
            _column("drop_ci_high", pa.float64(), "upper end of the interval of drop_honest"),
            _column("p_value", pa.float64(), "of no dependence on background within the class"),
            _column("q_value", pa.float64(), "p_value corrected for the number of classes"),
            _required("selected", pa.bool_(), "whether the class enters the split"),
            _column("reason", pa.string(), "why it does not, in words; null when selected"),
            _column("chosen_by", pa.string(), "the run whose predictions chose the pair"),
            _column("backgrounds", pa.int32(), "backgrounds with enough photos to be compared"),
            _column("statistic", pa.float64(), "largest standardised difference of two of them"),
            _column("draws", pa.int64(), "permutations behind p_value"),
            _column("observers", pa.int32(), "observers behind the photos compared"),
            _column("common_test_photos", pa.int32(), "common photos that did not choose the pair"),
            _column("counter_test_photos", pa.int32(), "counter photos that did not choose it"),
            _column("common_test_accuracy", pa.float64(), "accuracy in these common photos"),
            _column("counter_test_accuracy", pa.float64(), "accuracy in these counter photos"),
            _column("shown", pa.bool_(), "whether the interval of drop_honest lies above zero"),
            _column(
                "only_its_own",
                pa.bool_(),
                "whether no other model reported shows the pair; null without other models",
            ),
        ]
    ),
    optional=frozenset(
        {
            "chosen_by",
            "backgrounds",
            "statistic",
            "draws",
            "observers",
            "common_test_photos",
            "counter_test_photos",
            "common_test_accuracy",
            "counter_test_accuracy",
            "shown",
            "only_its_own",
        }
    ),
)

PLAN = TableSchema(
    name="plan",
    summary="How many photos people must still tag, from counts alone; by `cap split --plan`.",
    key=("class_index", "background"),
    schema=pa.schema(
        [
            _CLASS_INDEX,
            _required("background", pa.string(), "background label"),
            _required("have", pa.int32(), "photos kept on it, without duplicates"),
            _required("need", pa.int32(), "photos more until it can be compared"),
            _required("priority", pa.int32(), "rank of the class, 1 first: who needs most"),
        ]
    ),
)

REGIONS = TableSchema(
    name="regions",
    summary=(
        "Parts of the photos that a run has scored, and what its model makes of each; written by "
        "`cap discover`, one file per run."
    ),
    key=("photo_id", "region"),
    schema=pa.schema(
        [
            _PHOTO_ID,
            _required("region", pa.int32(), "number of the region within the photo, from 0"),
            _STATUS,
            _ERROR,
            *(
                _column(side, pa.int32(), f"{side} edge in pixels of the upright photo")
                for side in ("left", "top", "right", "bottom")
            ),
            _column(
                "probability",
                pa.float32(),
                "that the region shows what the model calls the whole photo: softmax of its scores",
            ),
            _column(
                "embedding", pa.list_(pa.float16()), "embedding of unit length (fixed-size list)"
            ),
        ]
    ),
    choices={"status": ("ok", "failed")},
)

_COMPARED = pa.struct(
    [
        pa.field("class_index", pa.int32()),
        pa.field("class_name", pa.string()),
        pa.field("photos_in", pa.int32()),
        pa.field("photos_out", pa.int32()),
        pa.field("accuracy_in", pa.float64()),
        pa.field("accuracy_out", pa.float64()),
        pa.field("gap", pa.float64()),
    ]
)

_MEMBER = pa.struct(
    [
        pa.field("photo_id", pa.string()),
        pa.field("region", pa.int32()),
        pa.field("similarity", pa.float32()),
    ]
)

DISCOVERIES = TableSchema(
    name="discoveries",
    summary=(
        "Clusters of regions, and whether the run's model leans on them; written by "
        "`cap discover`, one file per run."
    ),
    key=("cluster",),
    schema=pa.schema(
        [
            _required("cluster", pa.int32(), "number of the cluster, from 0"),
            _column("rank", pa.int32(), "1 is the largest gap of those kept; null: not kept"),
            _column("reason", pa.string(), "why it is not kept, in words; null when kept"),
            _column("class_index", pa.int32(), "class that the model has tied it to"),
            _column("class_name", pa.string(), "name of that class"),
            _column(
                "difference",
                pa.float64(),
                "accuracy on that class's photos with the cluster minus those without",
            ),
            _required(
                "gap", pa.float64(), "sum over classes of the absolute gap, weighted (RaVL's G_c)"
            ),
            _required("gap_ci_low", pa.float64(), "lower end of its 95 % interval"),
            _required("gap_ci_high", pa.float64(), "upper end of its 95 % interval"),
            _column(
                "influence",
                pa.float64(),
                "share of the errors where it hurts that one of its regions decides (RaVL's H_c), "
                "of the class with the largest; null where there is no such error",
            ),
            _required("p_value", pa.float64(), "of no dependence of the model's being right on it"),
            _required("q_value", pa.float64(), "p_value corrected for the number of clusters"),
            _required("regions", pa.int32(), "regions in it"),
            _required("photos", pa.int32(), "photos with at least one of them"),
            _required("embedding", pa.list_(pa.float32()), "embedding of its middle, the medoid"),
            _required(
                "classes",
                pa.list_(_COMPARED),
                "for each class the photos with and without it, the accuracy on both, and their "
                "weighted difference (RaVL's G_c^y); null where there are none",
            ),
            _required(
                "members",
                pa.list_(_MEMBER),
                "its regions and their cosine to the medoid, which comes first",
            ),
        ]
    ),
)

MITIGATIONS = TableSchema(
    name="mitigations",
    summary=(
        "What became of a model while it was fine-tuned, an epoch a row, measured on photos kept "
        "apart; the last row is the checkpoint in `models/`. Written by `cap mitigate`, one file "
        "per checkpoint."
    ),
    key=("epoch",),
    schema=pa.schema(
        [
            _required("epoch", pa.int32(), "0 is the model as it was"),
            _column("loss", pa.float64(), "mean loss of the epoch's steps; null where none was"),
            _column("contrast", pa.float64(), "of it, the loss of photos and captions (L_CL)"),
            _column("regions", pa.float64(), "from regions to labels (L_R)"),
            _column("labels", pa.float64(), "from labels to regions (L_A)"),
            _column("classes", pa.float64(), "cross-entropy of the classes"),
            _required("trained_on", pa.int32(), "photos that it learns from"),
            _required("photos", pa.int32(), "photos kept apart"),
            _required("accuracy", pa.float64(), "of these photos"),
            _column("worst_accuracy", pa.float64(), "of the group where it is lowest"),
            _column("worst_class", pa.string(), "class of that group"),
            _column("worst_has", pa.bool_(), "whether photos of that group have the cluster"),
            _column("worst_photos", pa.int32(), "photos of that group; null where all are small"),
        ]
    ),
)

CONFIRMATIONS = TableSchema(
    name="confirmations",
    summary=(
        "What each person said of whether a photo shows what the regions of a cluster have in "
        "common; written by `cap annotate pull`."
    ),
    key=("photo_id", "annotator", "run", "cluster", "discovery"),
    schema=pa.schema(
        [
            _PHOTO_ID,
            _required("annotator", pa.string(), "who looked at the photo"),
            _required("run", pa.string(), "the run of the cluster, a file below `discoveries/`"),
            _required("cluster", pa.int32(), "number of the cluster"),
            _required(
                "discovery",
                pa.string(),
                "digest of what was in it: answers about an older clustering have another one",
            ),
            _column(
                "shows", pa.bool_(), "whether the photo shows it; null where the photo was skipped"
            ),
            _required(
                "in_cluster", pa.bool_(), "whether a region of the photo was in it when it was sent"
            ),
            _column("note", pa.string(), "free text of the annotator"),
            _column("seconds", pa.float64(), "time spent on the photo, in seconds"),
            _column("created_at", _TIME, "when the answer was first given"),
            _column("updated_at", _TIME, "when the answer was last changed"),
            _required("source_id", pa.string(), "`<project>/<answer>` on the server"),
            _required("config_version", pa.string(), "version of the screen"),
        ]
    ),
)

_SPLIT_FIELDS = [
    _PHOTO_ID,
    _CLASS_INDEX,
    _CLASS_NAME,
    _required("group", pa.string(), "`common` or `counter`"),
    _required("background", pa.string(), "background label"),
    _column("partition", pa.string(), "`validation` or `test`; null where the rule has none"),
    _column("observation_id", pa.string(), "observation that the photo belongs to"),
    _column("creator_id", pa.string(), "the source's id of the photographer"),
    _required("sha256", pa.string(), "digest of the original bytes"),
    _required("license", pa.string(), "licence code of the photo itself, or `unknown`"),
    _column("attribution", pa.string(), "credit line to print with the photo"),
    _column("creator", pa.string(), "name of the photographer"),
    _column("url", pa.string(), "where the bytes came from; null for files"),
]

_SPLIT_CHOICES = {"group": ("common", "counter"), "partition": ("validation", "test")}

SPLIT = TableSchema(
    name="split",
    summary="The photos of the selected classes, in their groups; written by `cap split`.",
    key=("photo_id",),
    schema=pa.schema(_SPLIT_FIELDS),
    choices=_SPLIT_CHOICES,
)

IMAGE_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

RELEASE = TableSchema(
    name="release",
    summary="A released photo: a row of `split` with its bytes; written by `cap release`.",
    key=("photo_id",),
    schema=pa.schema(
        [
            *_SPLIT_FIELDS,
            # `datasets` takes a column for images only if it may be null.
            _column(
                "image",
                IMAGE_TYPE,
                "`bytes`: the photo's original ones, and `path`: a file name; a photo that is only "
                "linked has no bytes, and its address as path",
            ),
        ]
    ),
    choices=_SPLIT_CHOICES,
)

CONFUSING = TableSchema(
    name="confusing",
    summary=(
        "For each released class the 20 labels with the highest mean score over all its photos, "
        "both groups together; in a release, written by `cap release`. The file's metadata name "
        "the run, model and prompts that the scores come from."
    ),
    key=("class_index", "rank"),
    schema=pa.schema(
        [
            _CLASS_INDEX,
            _required("rank", pa.int32(), "1 is the label with the highest mean score"),
            _CLASS_NAME,
            _required("label_index", pa.int32(), "position of the label in the label space"),
            _required("label_name", pa.string(), "name of the label"),
            _required("mean_score", pa.float64(), "mean cosine, or logit for classifiers"),
            _required(
                "replaced",
                pa.bool_(),
                "whether it is the class itself in the place of the last label, which beat it",
            ),
        ]
    ),
)

_EVALUATED = [
    _required("release", pa.string(), "name of the release"),
    _required("release_digest", pa.string(), "sha256 of its rows, photos included"),
    _required("label_space", pa.string(), "labels to choose from: `imagenet1k`, `confusing20`, …"),
    _required("label_space_digest", pa.string(), "sha256 of the labels allowed for each class"),
    _required("partition", pa.string(), "`validation`, `test` or `all`"),
]

_MEASURE = _required(
    "measure",
    pa.string(),
    "`accuracy` (class-balanced), `plain_accuracy` (every photo alike), `accuracy_also_correct` "
    "(labels that name the animal rightly too), `error_same_family` and `error_other_family` "
    "(class-balanced; with `accuracy` they make 1)",
)
_MEASURES = (
    "accuracy",
    "plain_accuracy",
    "accuracy_also_correct",
    "error_same_family",
    "error_other_family",
)
_GROUP = _required(
    "group",
    pa.string(),
    "`common`, `counter`, or `drop`: common minus counter, for errors counter minus common",
)

RESULTS = TableSchema(
    name="results",
    summary="What was measured of each model on a release, a number a row; by `cap evaluate`.",
    key=("evaluation", "class_name", "measure", "group"),
    schema=pa.schema(
        [
            _required("evaluation", pa.string(), "a file below `results/evaluations/`"),
            _required("class_name", pa.string(), "name of the class; `*` for all of them"),
            _MEASURE,
            _GROUP,
            _required("photos", pa.int32(), "photos behind the number"),
            _required("value", pa.float64(), "the share, or the drop"),
            _required("ci_low", pa.float64(), "lower end of its 95 % interval"),
            _required("ci_high", pa.float64(), "upper end of its 95 % interval"),
            _required("model", pa.string(), "model SPEC"),
            _required("model_digest", pa.string(), "sha256 of what decides the model's scores"),
            _required("family", pa.string(), "family of the model: `open_clip`, `timm`"),
            *_EVALUATED,
            _required("chose_pairs", pa.bool_(), "whether this model chose the release's pairs"),
            _required("resamples", pa.int32(), "bootstrap resamples behind the intervals"),
            _required("seed", pa.int64(), "seed of the bootstrap"),
        ]
    ),
    choices={"measure": _MEASURES, "group": ("common", "counter", "drop")},
)

COMPARISONS = TableSchema(
    name="comparisons",
    summary="Two models on the same photos of a release, a number a row; by `cap evaluate`.",
    key=("evaluation", "other", "measure", "group"),
    schema=pa.schema(
        [
            _required("evaluation", pa.string(), "the first model's evaluation"),
            _required("other", pa.string(), "the second model's evaluation"),
            _MEASURE,
            _GROUP,
            _required("photos", pa.int32(), "photos that both models answered"),
            _required("difference", pa.float64(), "the first model's value minus the second's"),
            _required("ci_low", pa.float64(), "lower end of its 95 % interval, paired"),
            _required("ci_high", pa.float64(), "upper end of its 95 % interval, paired"),
            _column("only_first", pa.int32(), "photos that only the first names rightly"),
            _column("only_second", pa.int32(), "photos that only the second names rightly"),
            _column("p_value", pa.float64(), "McNemar's, for plain accuracy; else null"),
            _required("model", pa.string(), "the first model's SPEC"),
            _required("other_model", pa.string(), "the second model's SPEC"),
            *_EVALUATED,
            _required("resamples", pa.int32(), "bootstrap resamples behind the intervals"),
            _required("seed", pa.int64(), "seed of the bootstrap"),
        ]
    ),
    choices={"measure": _MEASURES, "group": ("common", "counter", "drop")},
)

TABLES: dict[str, TableSchema] = {
    table.name: table
    for table in (
        PHOTOS,
        DUPLICATES,
        ANNOTATIONS,
        LABELS,
        PREDICTIONS,
        GROUPS,
        PAIRS,
        PLAN,
        REGIONS,
        DISCOVERIES,
        MITIGATIONS,
        CONFIRMATIONS,
        SPLIT,
        RELEASE,
        CONFUSING,
        RESULTS,
        COMPARISONS,
    )
}
"""Every table by name; the scoring runs share `predictions`, `regions` and `discoveries`."""


def table_schema(name: str) -> TableSchema:
    """The schema of a table; `predictions/<run>` is a table `predictions`.

    Raises
    ------
    KeyError
        If there is no such table.
    """
    return TABLES[name.partition("/")[0]]
