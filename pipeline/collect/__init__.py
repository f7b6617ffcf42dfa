"""Collect: photos from a source into the workspace's store, one row for each photo asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.collect import folder

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Outcome, Workspace
    from pipeline.parameters import CollectParameters

__all__ = ["collect"]

_SOURCES = {"folder": folder.collect_folder}


def collect(workspace: Workspace, parameters: CollectParameters, progress: Progress) -> Outcome:
    """Run the stage for the source that the parameters name."""
    return _SOURCES[parameters.source](workspace, parameters, progress)
