"""What a study's units of work go by: the model that is loaded, with what lies over it and where it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchlight.packs.read import read_pack
from patchlight.study.spec import read_study
from patchlight.study.stages import loaded_checkpoint, questions_unit


def edited(study: Path, model: str) -> Path:
    """The study's file with another `model:` line."""
    lines = study.read_text(encoding="utf-8").splitlines()
    changed = [f"model: {model}" if line.startswith("model:") else line for line in lines]
    study.write_text("\n".join(changed) + "\n", encoding="utf-8")
    return study


def write_adapter(folder: Path, study: Path, alpha: int) -> None:
    """A real LoRA adapter of the study's model, where peft is installed to make one."""
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'patchlight[lora]')")
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(study.parent / "model")
    config = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["c_attn"], fan_in_fan_out=True)
    peft.get_peft_model(hf, config).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers for a name that is renamed
def test_a_study_loads_its_adapter_and_goes_by_what_is_in_it(study: Path) -> None:
    folder = study.parent / "adapter"
    write_adapter(folder, study, alpha=4)
    bare = loaded_checkpoint(read_study(study))
    first = loaded_checkpoint(read_study(edited(study, "{load: model, adapter: adapter}")))
    assert bare is not None
    assert first is not None
    assert first.model.adapted
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 5}))
    second = loaded_checkpoint(read_study(study))
    assert second is not None
    assert len({bare.digest, first.digest, second.digest}) == 3
    # The adapter's folder alone stands for both.
    (folder / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": str(study.parent / "model")})
    )
    alone = loaded_checkpoint(read_study(edited(study, "{load: adapter}")))
    assert alone is not None
    assert alone.model.digest == first.model.digest


@pytest.mark.parametrize(
    ("model", "same"),
    [("{load: model, device: 'cuda:0'}", False), ("{load: model, dtype: float16}", False), ("{load: model}", True)],
)
def test_units_go_by_the_kind_of_device_and_the_number_format(model: str, same: bool, study: Path) -> None:
    """Nothing is loaded to plan them, so that the device need not be here."""
    pack = read_pack(study.parent / "pack.yaml")

    def inputs(path: Path) -> dict[str, object]:
        read = read_study(path)
        checkpoint = loaded_checkpoint(read)
        assert checkpoint is not None
        return dict(questions_unit(read, pack, checkpoint).inputs)

    plain = inputs(study)
    assert (inputs(edited(study, model)) == plain) is same
