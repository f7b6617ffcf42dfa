"""Collect: photos from a source into the workspace's store, one row for each photo asked for.

A source on the internet gives a listing (`listing.LISTING`): which photos to ask for, and what is
known of each. `remote` writes the listing down, fetches its photos and commits the rows, the same
for every such source. Photos in a folder need none of that; they have `folder` to themselves.
"""

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
