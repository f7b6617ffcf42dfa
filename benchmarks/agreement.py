"""Intervals of agreement: `cap annotate agreement`'s against asking the library for each resample.

Three people answer as many photos as asked with 15 backgrounds; both take the 95 % percentile
interval of Krippendorff's alpha. The library is asked for a few resamples, and its time scaled up.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click
import krippendorff
import numpy as np

from annotation.coefficients import (
    MISSING,
    Bootstrap,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)

TARGET_RATIO = 50.0
CATEGORIES = 15


def answers(photos: int, seed: int) -> np.ndarray:
    """Categories of shape (photos, 3): four in five are the truth, one in ten is missing."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CATEGORIES, (photos, 1))
    ratings = np.where(
        rng.random((photos, 3)) < 0.8, truth, rng.integers(0, CATEGORIES, (photos, 3))
    )
    ratings[rng.random((photos, 3)) < 0.1] = MISSING
    return ratings


def seconds_of(work: Any, *arguments: Any) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def measure(photos: int, resamples: int, asked: int, seed: int) -> dict[str, Any]:
    """Seconds of both for the same interval, and of ours for the other coefficients."""
    ratings = answers(photos, seed)
    bootstrap = Bootstrap(resamples, seed)
    pairable = ratings[(ratings != MISSING).sum(axis=1) > 1]
    counts = (pairable[:, :, None] == np.arange(CATEGORIES)).sum(axis=1)
    rng = np.random.default_rng(seed)

    def by_library() -> None:
        for _ in range(asked):
            drawn = counts[rng.integers(0, len(counts), len(counts))]
            krippendorff.alpha(value_counts=drawn, level_of_measurement="nominal")

    krippendorff_alpha(ratings[:100], bootstrap)  # imports what it needs
    fleiss_kappa(ratings[:100], bootstrap)
    ours = seconds_of(krippendorff_alpha, ratings, bootstrap)
    theirs = seconds_of(by_library) * resamples / asked
    return {
        "photos": photos,
        "resamples": resamples,
        "alpha_seconds": round(ours, 2),
        "library_seconds": round(theirs, 1),
        "ratio": round(theirs / ours, 1),
        "ratio_target": TARGET_RATIO,
        "fleiss_seconds": round(seconds_of(fleiss_kappa, ratings, bootstrap), 2),
        "cohen_seconds": round(seconds_of(cohen_kappa, ratings[:, :2], bootstrap), 2),
    }


@click.command()
@click.option("--photos", default=20_000, show_default=True, help="Photos that people answer.")
@click.option("--resamples", default=1000, show_default=True, help="Resamples of an interval.")
@click.option("--asked", default=20, show_default=True, help="Resamples given to the library.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(*, as_json: bool, **options: int) -> None:
    """Compare the interval of Krippendorff's alpha with resamples given to the library."""
    figures = measure(**options)
    if as_json:
        click.echo(json.dumps(figures))
        return
    click.echo(
        f"{figures['photos']} photos, {figures['resamples']} resamples: alpha with its interval "
        f"{figures['alpha_seconds']} s, library {figures['library_seconds']} s, ratio "
        f"{figures['ratio']} (target {TARGET_RATIO}); Fleiss' kappa {figures['fleiss_seconds']} s, "
        f"Cohen's kappa {figures['cohen_seconds']} s"
    )


if __name__ == "__main__":
    main()
