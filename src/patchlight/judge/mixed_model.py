"""The mixed model effect ~ layer x kind + covariates + (1 | fact), beside the permutation test of the layer effect."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from patchlight.errors import InputError
from patchlight.judge.statistics import FEWEST_FOR_INTERVAL, constant_cells, fact_means


@dataclass(frozen=True)
class Term:
    """A Wald test of one term: "layer", "kind", "layer:kind" or a covariate's name."""

    name: str
    chi_square: float
    degrees: int
    p: float


@dataclass(frozen=True)
class MixedModel:
    """The tested terms, the variances between and within facts, and what the fit complained of."""

    terms: tuple[Term, ...]
    fact_variance: float
    residual_variance: float
    n: int
    converged: bool
    warnings: tuple[str, ...]


def mixed_model(
    effects: Float[np.ndarray, "pair layer"],
    facts: Sequence[str],
    kinds: Sequence[str],
    covariates: Mapping[str, Float[np.ndarray, " pair"]],
) -> MixedModel:
    """The Wald tests of layer, kind, their interaction and the covariates, facts being random intercepts (REML).

    Each fact enters once a layer, with the mean over its pairs, so templates are averaged, not modelled. Main effects
    are averages over the other factor (sum coding); with one kind its terms are absent. Raises `InputError`
    where there are too few facts or nothing varies.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM  # with pandas and patsy: seconds

    means = fact_means(effects, facts)
    if len(means) < FEWEST_FOR_INTERVAL or constant_cells(means.reshape(-1, 1))[0]:
        raise InputError(
            "judge-no-variance",
            f"a mixed model needs {FEWEST_FOR_INTERVAL} facts and effects that differ; there are {len(means)} facts",
        )
    factors = "C(layer, Sum) * C(kind, Sum)" if len(set(kinds)) > 1 else "C(layer, Sum)"
    formula = " + ".join([f"effect ~ {factors}", *(f'Q("{name}")' for name in covariates)])
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        fit = MixedLM.from_formula(formula, groups="fact", data=_table(means, facts, kinds, covariates)).fit()
        table = fit.wald_test_terms(scalar=True, skip_single=False).table
    return MixedModel(
        terms=tuple(
            Term(_plain(name), float(row.statistic), int(row.df_constraint), float(row.pvalue))
            for name, row in table.iterrows()
            if name != "Intercept"
        ),
        fact_variance=float(fit.cov_re.iloc[0, 0]),
        residual_variance=float(fit.scale),
        n=len(means),
        converged=bool(fit.converged),
        warnings=tuple(str(complaint.message) for complaint in complaints),
    )


def _table(
    means: Float[np.ndarray, "fact layer"],
    facts: Sequence[str],
    kinds: Sequence[str],
    covariates: Mapping[str, Float[np.ndarray, " pair"]],
) -> object:
    """One line a fact and layer; a fact's kind is its pairs', its covariates are their mean."""
    import pandas as pd

    fact, layer = np.indices(means.shape).reshape(2, -1)
    kind_of = dict(zip(facts, kinds, strict=True))
    names = np.array(sorted(kind_of))
    columns = {name: fact_means(np.asarray(values), facts)[fact] for name, values in covariates.items()}
    kind = np.array([kind_of[name] for name in names])[fact]
    table = pd.DataFrame({"effect": means.ravel(), "fact": names[fact], "layer": layer, "kind": kind, **columns})
    return table.dropna()


def _plain(term: str) -> str:
    """A formula's term as people read it: "C(layer, Sum):C(kind, Sum)" is "layer:kind"."""
    for old, new in (("C(layer, Sum)", "layer"), ("C(kind, Sum)", "kind"), ('Q("', ""), ('")', "")):
        term = term.replace(old, new)
    return term
