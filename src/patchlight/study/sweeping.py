"""What a study file may say of its sweeps: which sites are patched, and what else is asked of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field, model_validator

from patchlight.study.section import Section

Component = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
Direction = Literal["denoise", "noise"]
Screened = Literal[Component, "head_out", "q", "k", "v", "mlp_hidden"]
Estimate = Literal["attribution", "atp_star", "integrated"]
OtherCorruption = Literal["gaussian", "mean", "zero", "resample"]
Metric = Literal["logit_diff", "logprob_diff", "logprob_diff_mean", "logsumexp_diff", "logprob", "prob", "kl", "rank"]
Metrics = Annotated[
    tuple[Metric, ...],
    Field(min_length=1),
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=Metric | list[Metric]
    ),
]


class Screening(Section):
    """How sites are narrowed before a closer look: estimates order them, the first are patched exactly."""

    method: Estimate = Field(
        default="attribution",
        description="attribution for what sublayers and heads write, atp_star for q and k, integrated for the stream.",
    )
    components: tuple[Screened, ...] = Field(default=("attn_out", "mlp_out"), min_length=1)
    candidates: float = Field(default=0.1, gt=0, le=1, description="Share of the sites that is patched exactly.")
    audit: int = Field(default=60, ge=0, description="Rejected sites drawn at random and patched exactly, too.")
    threshold: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the gap from which an effect counts as found or missed."
    )


class Across(Section):
    """What fine-tuning wrote: every trained configuration patched against the model before it, on the same prompts."""

    components: tuple[Component, ...] = Field(
        default=("mlp_out", "resid_post"), description="Activations put from model to model, by layer and role."
    )
    weights: bool = Field(default=True, description="Also exchange the weights of each module, and of all.")


class Sets(Section):
    """Several sites together: the smallest sets that bring back, and take away, these shares of the gap."""

    share: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.8, 0.9), min_length=1)
    largest: float = Field(default=0.2, gt=0, le=1, description="Share of the eligible sites where growth ends.")


SetsChoice = Annotated[
    Sets | None,
    BeforeValidator(
        lambda given: {True: Sets(), False: None}[given] if isinstance(given, bool) else given,
        json_schema_input_type=bool | Sets,
    ),
]


class Subspaces(Section):
    """Directions within places, found on the discovery facts and judged on those held out."""

    sites: tuple[str, ...] = Field(
        default=(),
        description="Places such as blocks.7.mlp_hidden@subject_last; by default the strongest of each kind.",
    )
    methods: tuple[Literal["mean-difference", "pca", "probe", "das"], ...] = Field(
        default=("mean-difference", "pca", "probe", "das"), min_length=1
    )
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 4, 8), min_length=1)
    epochs: int = Field(default=40, ge=1, description="Of training das, at most; it stops early.")


class Windows(Section):
    """Neighbouring layers and words exchanged together, beside the sum of what each does by itself."""

    layers: int = Field(default=1, ge=1, le=12, description="Layers in a window.")
    positions: int = Field(default=2, ge=1, le=8, description="Words (tokens) of the prompt in a window.")

    @model_validator(mode="after")
    def more_than_one_place(self) -> Windows:
        """Refuse a window that is one place."""
        if self.layers == self.positions == 1:
            raise ValueError("a window of one layer and one position is a single place: widen `layers` or `positions`")
        return self


class Sweep(Section):
    """Which sites are patched."""

    components: tuple[Component, ...] = Field(default=("resid_pre", "attn_out", "mlp_out"), min_length=1)
    directions: tuple[Direction, ...] = Field(default=("denoise", "noise"), min_length=1)
    metrics: Metrics = Field(
        default=("logit_diff",),
        alias="metric",
        description="One metric or several; the first decides which pairs take part, and the verdict.",
    )
    corruptions: tuple[OtherCorruption, ...] = Field(
        default=(), description="Measure the first direction again with these corruptions: do the maps agree?"
    )
    screening: Screening | None = Field(
        default=None, description="Narrow the sites of more components on the discovery facts, in the first direction."
    )
    across: Across | None = Field(
        default=None, description="Patch each trained configuration against the model before fine-tuning."
    )
    direct: bool = Field(
        default=False,
        description="Say how much of the strongest places' effect goes straight to the answer, and how much by others.",
    )
    sets: SetsChoice = Field(
        default=Sets(), description="Grow sets of sites on the discovery facts and confirm them; false leaves it out."
    )
    subspaces: Subspaces | None = Field(
        default=None, description="Find directions within a place: how few of them bring the answer back?"
    )
    observation: bool = Field(
        default=False, description="Also look without exchanging anything, and say where looking and acting disagree."
    )
    steps: bool = Field(
        default=False,
        description="Answers of several tokens: what a patch does to each of them, in the first direction.",
    )
    windows: Windows | None = Field(
        default=None, description="Exchange neighbouring layers and words together, in the first direction."
    )
    repair: bool = Field(
        default=False, description="Knock the strongest places out: what makes up for them, and which back one another?"
    )
    routes: bool = Field(
        default=False, description="Which later parts read what the strongest places write, path by path."
    )
    pairs_per_unit: int = Field(default=12, ge=1, le=1000, description="Pairs in one unit of work.")
    memory: ByteSize = Field(
        default=ByteSize(1 << 30), ge=1 << 24, description="Held beside the model while sweeping, such as 2GiB."
    )

    @model_validator(mode="after")
    def estimates_are_of_logits(self) -> Sweep:
        """Refuse a screening under a first metric whose gradient nothing reads."""
        asked = {"screening": self.screening, "subspaces": self.subspaces, "observation": self.observation}
        asked |= {"repair": self.repair}
        for name in (name for name, given in asked.items() if given and self.metrics[0] != "logit_diff"):
            raise ValueError(f"`{name}` reads the logit difference: put logit_diff first, or leave out `{name}`")
        return self
