"""The agreement report as a person reads it.

Given a `Report`, gives lines of aligned columns: a sentence that sums it up, then a block for each
thing that was measured. What could not be measured is a dash, with the reason beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from annotation.coefficients import Coefficient, strength
from annotation.consensus import NONE_FITS
from manifests.columns import columns

if TYPE_CHECKING:
    from annotation.agreement import Report
    from annotation.suggestions import Seconds, Share

__all__ = ["render"]

_DISPUTES_SHOWN = 20

_QUESTIONS = {
    "decision": "Keep or reject (1 is perfect agreement, 0 is chance)",
    "background": "Background, of photos that everybody kept",
}

_NAMES = {
    "cohen_kappa": "Cohen's kappa",
    "fleiss_kappa": "Fleiss' kappa",
    "krippendorff_alpha": "Krippendorff's alpha",
}


def render(report: Report) -> str:
    """The whole report; its first line stands alone."""
    first = (
        f"{report.photos} photos, {len(report.seconds)} annotators, {report.answers} answers that "
        f"decide; {len(report.disputes)} photos in dispute"
    )
    blocks = [
        [first],
        *(_agreement(report, question, title) for question, title in _QUESTIONS.items()),
        _confusion(report),
        _classes(report),
        *_suggestions(report),
        _times(report),
        _disputes(report),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _value(found: Coefficient) -> str:
    if found.value is None:
        return "-"
    if found.ci_low is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.ci_low:.3f} to {found.ci_high:.3f})"


def _row(of: str, found: Coefficient) -> dict[str, Any]:
    name = _NAMES[found.coefficient]
    if found.answers_per_photo is not None:
        name += f", photos with {found.answers_per_photo} answers"
    remark = found.reason or ""
    if found.value is not None and not remark and found.coefficient != "krippendorff_alpha":
        remark = strength(found.value)
    return {
        "of": of,
        "photos": found.photos,
        "coefficient": name,
        "value (95 % interval)": _value(found),
        "strength after Landis and Koch 1977": remark,
    }


def _agreement(report: Report, question: str, title: str) -> list[str]:
    """Over all people alpha and Fleiss' kappa, of each pair with photos in common Cohen's."""
    rows = []
    for found in report.agreement:
        if found.question == question and found.class_name is None:
            cohen, fleiss, alpha = found.coefficients
            if found.annotators is None:
                rows += [_row("all", alpha), _row("all", fleiss)]
            elif alpha.photos:
                rows.append(_row(" and ".join(found.annotators), cohen))
    return [title, *columns(rows)]


def _classes(report: Report) -> list[str]:
    rows: dict[str, dict[str, Any]] = {}
    for found in report.agreement:
        if found.class_name is not None:
            alpha = found.coefficients[2]
            row = rows.setdefault(found.class_name, {"class": found.class_name})
            row[f"photos{'' if found.question == 'decision' else ' kept'}"] = alpha.photos
            row[f"alpha of the {found.question}"] = _value(alpha)
    return columns(list(rows.values()))


def _confusion(report: Report) -> list[str]:
    """The backgrounds that two people used on one photo."""
    names, counts = report.confusion["backgrounds"], report.confusion["counts"]
    used = [index for index, row in enumerate(counts) if any(row)]
    rows = [{"": names[i], **{names[j]: counts[i][j] for j in used}} for i in used]
    return ["Pairs of answers to one photo, by background", *columns(rows)] if rows else []


def _share(share: Share) -> str:
    if share.share is None:
        return "-"
    return f"{share.share:.1%} ({share.ci_low:.1%} to {share.ci_high:.1%})"


def _seconds(time: Seconds) -> str:
    if time.median is None:
        return "-"
    return f"{time.median:.1f} ({time.lower_quartile:.1f} to {time.upper_quartile:.1f})"


def _suggestions(report: Report) -> list[list[str]]:
    taken, lean = report.acceptance, report.anchoring
    if not taken.overall.answers and not lean.shown.answers:
        return []
    people = {"all": taken.overall, **taken.by_annotator}
    accepted = [
        {"suggested to": who, "answers": share.answers, "accepted": _share(share)}
        for who, share in people.items()
    ]
    compared = [
        {
            "suggestion": word,
            "answers": share.answers,
            "background is the model's": _share(share),
            "seconds of any decision: median (quartiles)": _seconds(time),
        }
        for word, share, time in (
            ("shown", lean.shown, report.seconds_with_suggestion),
            ("withheld", lean.withheld, report.seconds_without_suggestion),
        )
    ]
    verdict = f"No difference can be told: {lean.reason}."
    if lean.difference is not None and lean.ci_low is not None and lean.ci_high is not None:
        verdict = (
            f"Shown minus withheld: {100 * lean.difference:+.1f} points "
            f"({100 * lean.ci_low:+.1f} to {100 * lean.ci_high:+.1f})."
        )
    if lean.from_other_run:
        verdict += f" {lean.from_other_run} suggestions are not of this run and left out."
    return [columns(accepted), [*columns(compared), verdict]]


def _times(report: Report) -> list[str]:
    return columns(
        [
            {
                "annotator": name,
                "answers": time.answers,
                "median seconds (quartiles)": _seconds(time),
            }
            for name, time in report.seconds.items()
            if time.answers
        ]
    )


def _disputes(report: Report) -> list[str]:
    shown = [
        {
            "in dispute": dispute["photo_id"],
            "answers": ", ".join(f"{a['annotator']}: {_said(a)}" for a in dispute["answers"]),
        }
        for dispute in report.disputes[:_DISPUTES_SHOWN]
    ]
    more = len(report.disputes) - len(shown)
    return [*columns(shown), *([f"and {more} more, in results/agreement.json"] if more else [])]


def _said(answer: dict[str, Any]) -> str:
    return "reject" if answer["decision"] == "reject" else answer["background"] or NONE_FITS
