"""A local stand-in for iNaturalist, to collect from without the network."""

from __future__ import annotations

from pipeline.demo.server.catalogue import Catalogue, Observation, Observer, Photo, Taxon
from pipeline.demo.server.faults import (
    API_FAULTS,
    HEALING_PHOTO_FAULTS,
    PHOTO_FAULTS,
    Fault,
    Faults,
)
from pipeline.demo.server.folder import FIRST_DECOY, folder_catalogue
from pipeline.demo.server.local import LocalINaturalist, ServerSettings, server_process
from pipeline.demo.server.log import RequestLog, RequestRecord

__all__ = [
    "API_FAULTS",
    "FIRST_DECOY",
    "HEALING_PHOTO_FAULTS",
    "PHOTO_FAULTS",
    "Catalogue",
    "Fault",
    "Faults",
    "LocalINaturalist",
    "Observation",
    "Observer",
    "Photo",
    "RequestLog",
    "RequestRecord",
    "ServerSettings",
    "Taxon",
    "folder_catalogue",
    "server_process",
]
