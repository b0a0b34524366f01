"""The user's price file: what an hour costs, and how long a person looks at a candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from patchlight.packs.yaml_source import load_yaml
from patchlight.study.section import Section

MINUTES = 1.0  # a form that takes a minute: an assumption, for nobody was timed
REVIEWERS = 2  # blind to each other


class Prices(Section):
    """What an hour costs, in one currency."""

    patchlight: Literal["prices/1"]
    currency: str = Field(min_length=1, max_length=8, description="As it is printed: EUR, JPY, USD.")
    machine_per_hour: float = Field(ge=0, description="Of the machine that the study runs on.")
    reviewer_per_hour: float = Field(ge=0, description="Of one reviewer.")
    minutes_per_candidate: float = Field(default=MINUTES, gt=0, description="Of one reviewer at one candidate.")
    reviewers: int = Field(default=REVIEWERS, ge=1, description="Who look at each candidate.")


def read_prices(path: Path) -> Prices:
    """The prices in a YAML file.

    Raises InputError `prices-...` with file:line:column for a file that is missing, no YAML, or not of this form.
    """
    return load_yaml(path, Prices, code="prices")
