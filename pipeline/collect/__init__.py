"""Collect: photos from a source into the workspace's store, one row for each photo asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manifests.progress import Progress
    from manifests.workspace import Outcome, Workspace
    from pipeline.parameters import CollectParameters

__all__ = ["collect"]


def collect(workspace: Workspace, parameters: CollectParameters, progress: Progress) -> Outcome:
    """Run the stage for the source that the parameters name."""
    if parameters.source == "folder":
        from pipeline.collect.folder import collect_folder

        return collect_folder(workspace, parameters, progress)
    from pipeline.collect.remote import collect_remote

    return collect_remote(workspace, parameters, progress)
