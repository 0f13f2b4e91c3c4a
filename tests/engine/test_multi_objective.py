"""Encode once, fuse once: what objectives get, and what they are told when they ask amiss."""

from typing import Any

import pytest
import torch
from support.sound_components import SoundObjective
from torch import nn

from renaissance import ObjectiveBatch, Pairs, PluginError, overrides
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.snli_ve import SNLIVE
from renaissance.builtin.objectives.vqa import VQA
from renaissance.data.collate import MicroBatch
from renaissance.engine.multi_objective import MultiObjective
from renaissance.testing.samples import SampleList, made_up_samples
from renaissance.testing.surroundings import Surroundings


@pytest.mark.parametrize(("lacks", "without"), [("image", "pixel_values"), ("text", "input_ids")])
def test_pairs_of_a_modality_that_was_not_collated(lacks: str, without: str) -> None:
    samples = SampleList(made_up_samples(frozenset({"text", "image"})))
    surroundings = Surroundings(SoundObjective, None, samples, root=None)  # type: ignore[arg-type]
    network = MultiObjective(
        surroundings.model, nn.ModuleDict({"sound": surroundings.make()}), (0.5,) * 3, (0.5,) * 3
    )
    ids = torch.ones(1, 4, dtype=torch.int64)
    tensors: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": ids.bool(),
        "pixel_values": torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    }
    row = torch.zeros(1, dtype=torch.int64)
    objectives = {"sound": ObjectiveBatch(1, Pairs(row, row), {"labels": row})}
    output = network(MicroBatch(indices=row, objectives=objectives, **tensors))
    assert output["sound"].loss_sum.isfinite()
    tensors[without] = None
    with pytest.raises(PluginError) as caught:
        network(MicroBatch(indices=row, objectives=objectives, **tensors))
    assert str(caught.value) == (
        f"objective 'sound' asks for pairs, but no {lacks} was collated; call builder.text and "
        "builder.image in collate"
    )


def test_overrides() -> None:
    assert [overrides(component, "pairs") for component in (ITM, VQA)] == [True, False]
    assert [overrides(component, "check_predictions") for component in (ITM, VQA)] == [False, True]
    # Inherited from the base of classifications; matching takes the contract's own again.
    assert [overrides(component, "predictions") for component in (ITM, SNLIVE)] == [False, True]
    made = SoundObjective.__new__(SoundObjective)
    assert overrides(made, "panel")
    assert not overrides(made, "similarity")
