"""The models that score photos: a registry of families behind one small protocol.

A model is written FAMILY:ARCHITECTURE[:WEIGHTS]. To add a family, write a module with a function
`load(spec, labels, options) -> Model`, decorate it with `register("name")` from
`pipeline.models.registry`, and list the module in `registry.FAMILIES`.
"""

from __future__ import annotations

from pipeline.models.registry import Model, ModelOptions, ModelSpec, load_for, load_model

__all__ = ["Model", "ModelOptions", "ModelSpec", "load_for", "load_model"]
