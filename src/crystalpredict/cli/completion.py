"""Shell completion of names of models and properties."""

from __future__ import annotations

from contextlib import suppress

import typer

from crystalpredict.errors import CrystalPredictError


def model_names(incomplete: str) -> list[str]:
    """Return the bundled and installed models; the shell completes folders."""
    from crystalpredict.checkpoints.registry import bundled_models, installed_models

    with suppress(CrystalPredictError):
        return [name for name in (*bundled_models(), *installed_models()) if name.startswith(incomplete)]
    return []


def target_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the properties of the given or default model and those derived from them, after the last comma."""
    before, comma, start = incomplete.rpartition(",")
    with suppress(CrystalPredictError):
        from crystalpredict.checkpoints.registry import find_model, properties_of_model
        from crystalpredict.prediction.derived import derivable

        properties = properties_of_model(find_model(ctx.params.get("model")))
        names = [prop.name for prop in (*properties, *derivable(properties))]
        return [f"{before}{comma}{name}" for name in names if name.startswith(start)]
    return []
