"""What every part of a study file has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the study file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
