"""Names of places that print and parse back, their tokens in a pair, and the places that always restore everything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from patchlight.errors import InputError
from patchlight.packs.yaml_source import suggestion
from patchlight.pairs.align import ROLES
from patchlight.records import Site
from patchlight.trace.cuts import restoring
from patchlight.trace.rows import HEADED, UNLAYERED, Rows, check_form

if TYPE_CHECKING:
    from jaxtyping import Bool

    from patchlight.model.anatomy import Model
    from patchlight.pairs.align import Alignment

SUBJECT = ("subject_first", "subject_mid", "subject_last")
POSITIONS = (*ROLES[:2], "subject", *ROLES[2:])  # the roles in the order of a prompt, and the subject as a whole
_WINDOW = r"[0-9]{1,6}(?:-[0-9]{1,6})?"
_INDICES = rf"{_WINDOW}(?:\+{_WINDOW})*"
_NAME = re.compile(
    rf"(?:blocks\.(?P<layer>{_INDICES})\.)?(?P<component>[a-z]\w*)"
    rf"(?:\.(?P<unit>{_INDICES}))?(?:@(?:(?P<position>{_INDICES})|(?P<role>[a-z][a-z_-]*)))?"
)


def read_site(name: str) -> Site:
    """The site that a name stands for; `str` of it is the canonical name.

    Raises InputError `trace-site-name`, with a suggestion, for anything else.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        fix = "write it like blocks.7.mlp_out@subject_last, blocks.3-5.head_out.0+6@last or embed@2-4"
        raise InputError("trace-site-name", f"{name!r} is not the name of a site", fix=fix)
    layer, unit, position = (_indices(found[part], name) for part in ("layer", "unit", "position"))
    site = Site(found["component"], layer, unit, found["role"] or position)
    check_name(site)
    return site


def check_name(site: Site) -> None:
    """Raises InputError `trace-site-name` where `read_site` would not read the site's name back."""
    check_form(site)
    if not isinstance(site.position, str):
        return
    ends = site.position.split("-")
    for role in ends:
        if role not in POSITIONS:
            fix = suggestion(role, POSITIONS) or f"give an index from 0, or one of: {', '.join(POSITIONS)}"
            raise InputError("trace-site-name", f"no role {role!r}", where=str(site), fix=fix)
    if len(ends) > 2 or (len(ends) == 2 and POSITIONS.index(ends[0]) >= POSITIONS.index(ends[1])):
        what = f"{site.position!r} is not a span from one role to a later one"
        raise InputError("trace-site-name", what, where=str(site), fix="write it like relation-last")


def check_site(site: Site, model: Model) -> None:
    """Raises InputError where a model has no such site.

    `trace-site-name`: no model has it; `model-no-component`; `trace-no-layer`; `trace-no-unit` (head or neuron).
    """
    check_name(site)
    check_component(site.component, model)
    if site.layer is not None and (highest := np.max(site.layer)) >= model.n_layers:
        _refuse_beyond(site, "layer", int(highest), model.n_layers, model)
    if site.unit is not None and (highest := np.max(site.unit)) >= (count := n_units(site.component, model)):
        _refuse_beyond(site, "unit", int(highest), count, model)


def check_component(component: str, model: Model) -> None:
    """Raises InputError `model-no-component` where a model does not have this component."""
    if component == "resid_mid" and model.parallel:
        what = "attention and MLP of this model read the same input, so that there is no resid_mid"
        raise InputError("model-no-component", what, where=model.name, fix="choose another component")
    if component == "mlp_hidden":
        model.part("mlp_proj", 0)


def n_units(component: str, model: Model) -> int:
    """How many heads or neurons a component has in each layer; 1 where it has none."""
    if component == "mlp_hidden":
        projection: Any = model.part("mlp_proj", 0)
        return int(getattr(projection, "in_features", None) or projection.nx)  # nx: GPT-2's Conv1D
    if component in ("k", "v"):
        return model.n_kv_heads
    return model.n_heads if component in HEADED else 1


def resolve(site: Site, alignment: Alignment) -> Site:
    """The site with the indices of its tokens in a pair instead of their role.

    A role stands for all its tokens together, a span of roles for all from the first token of one to the last of the
    other. Raises InputError `trace-no-position` where the pair has no token of a role, or too few tokens.
    """
    check_name(site)
    if site.position is None:
        return site
    if not isinstance(site.position, str):
        if (highest := np.max(site.position)) >= len(alignment.roles):
            _refuse_position(site, alignment, f"position {highest} (counted from 0)")
        return site
    ends = [_tokens(role, site, alignment) for role in site.position.split("-")]
    return replace(site, position=range(ends[0][0], ends[-1][-1] + 1))


def is_structural(sites: Sequence[Site], alignment: Alignment, model: Model, steps: Sequence[int] = (0,)) -> bool:
    """Whether replacing these sites together restores everything by construction, whatever the weights (guard 2).

    So it is if every way from the tokens that differ to the metric leads through one of them (see `trace.cuts`).
    `steps` says after how many tokens of an answer the metric is read (see `pairs.answers.steps_read`), 0 being the
    last position of the prompt. Raises InputError where the model or the pair does not have a site.
    """
    for site in sites:
        check_site(site, model)
    return bool(are_structural([[resolve(site, alignment) for site in sites]], alignment, model, steps)[0])


def are_structural(
    sets: Sequence[Sequence[Site]], alignment: Alignment, model: Model, steps: Sequence[int] = (0,)
) -> Bool[np.ndarray, "set"]:
    """Which sets of sites, their positions given as indices (see `resolve`), are such a cut in a pair.

    Only the prompt is replaced: in front of a later token of an answer, the earlier ones read what was left of it.
    """
    length, heads = len(alignment.clean_ids), (model.n_heads, model.n_kv_heads)
    rows = Rows.of([0] * len(sets), sets, length)
    read = [restoring(rows, alignment.differing, length + step, model.n_layers, heads) for step in steps]
    cut: np.ndarray = np.all(read, axis=0)
    return cut


def structural_sites(
    alignments: Sequence[Alignment], component: str, n_layers: int
) -> Bool[np.ndarray, "pair layer position"]:
    """Where replacing a component at one layer and position restores everything by construction (`is_structural`).

    False behind a shorter prompt. One head or neuron never is such a site.
    """
    width = max((len(alignment.clean_ids) for alignment in alignments), default=0)
    result = np.zeros((len(alignments), 1 if component in UNLAYERED else n_layers, width), dtype=bool)
    for pair, alignment in enumerate(alignments):
        length = len(alignment.clean_ids)
        if component not in HEADED:
            result[pair, :, :length] = _structural(alignment.differing, component, n_layers, length)
    return result


@lru_cache(maxsize=4096)
def _structural(
    differing: tuple[int, ...], component: str, n_layers: int, length: int
) -> Bool[np.ndarray, "layer position"]:
    layers = (None,) if component in UNLAYERED else range(n_layers)
    sites = [[Site(component, layer, None, position)] for layer in layers for position in range(length)]
    rows = Rows.of([0] * len(sites), sites, length)
    return restoring(rows, differing, length, n_layers).reshape(-1, length)


def present(sites: Sequence[Site], alignment: Alignment) -> list[Site]:
    """The sites with their tokens in a pair (see `resolve`), without those whose role no token of the pair has."""
    return [resolve(site, alignment) for site in sites if not _lacks(alignment, site)]


def _lacks(alignment: Alignment, site: Site) -> bool:
    named = site.position if isinstance(site.position, str) else None
    return named is not None and any(not _having(role, alignment) for role in named.split("-"))


def _indices(text: str | None, name: str) -> list[int] | None:
    """The indices written as `0-2+6`."""
    if text is None:
        return None
    windows = []
    for window in text.split("+"):
        first, _, last = window.partition("-")
        windows.append(range(int(first), int(last or first) + 1))
        if not windows[-1]:
            fix = f"write the lower end first: {last}-{first}"
            raise InputError("trace-site-name", f"the window {window} is empty", where=name, fix=fix)
    return [index for window in windows for index in window]


def _tokens(role: str, site: Site, alignment: Alignment) -> list[int]:
    """The positions of a role, rising."""
    found = _having(role, alignment)
    if not found:
        _refuse_position(site, alignment, f"token of the role {role!r}")
    return found


def _having(role: str, alignment: Alignment) -> list[int]:
    wanted: tuple[str, ...] = (role,)
    if role == "subject":
        # The last token of a subject that ends the prompt has the role `last`.
        wanted = SUBJECT if "subject_last" in alignment.roles else (*SUBJECT, "last")
    return [position for position, name in enumerate(alignment.roles) if name in wanted]


def _refuse_position(site: Site, alignment: Alignment, missing: str) -> NoReturn:
    what = f"there is no {missing} in the pair {'|'.join(alignment.words)!r}"
    fix = f"its roles are, token by token: {', '.join(alignment.roles)}"
    raise InputError("trace-no-position", what, where=str(site), fix=fix)


def _refuse_beyond(site: Site, part: str, index: int, count: int, model: Model) -> NoReturn:
    what = f"there is no {part} {index} of {site.component} in {model.name}, which has {count}"
    raise InputError(f"trace-no-{part}", what, where=str(site), fix=f"give indices from 0 to {count - 1}")
