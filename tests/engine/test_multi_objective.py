"""Encode once, fuse once: what objectives get, and what they are told when they ask amiss."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from support.running import TINY, one_tower_spec, write_spec
from support.sound_components import SoundObjective
from torch import nn

from renaissance import ObjectiveBatch, Pairs, PluginError, overrides
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.snli_ve import SNLIVE
from renaissance.builtin.objectives.vqa import VQA
from renaissance.data.micro_batch import MicroBatch, map_leaves
from renaissance.engine.bf16_copies import Bf16Copies, following_modules
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
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


@pytest.mark.parametrize("architecture", ["two-tower", "one-tower"])
def test_pixels_are_rounded_once_where_the_encoder_computes_in_bf16(
    tmp_path: Path, architecture: str
) -> None:
    text = TINY if architecture == "two-tower" else one_tower_spec()
    network = build(load_spec([str(write_spec(tmp_path, text))], load_plugins()), 1, True).network
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = network.get_buffer("pixel_mean"), network.get_buffer("pixel_std")
    expected = (pixels.float() - mean) / std
    assert torch.equal(network.normalize(pixels), expected)
    with Bf16Copies(following_modules(network)).in_use():
        assert torch.equal(network.normalize(pixels), expected.to(torch.bfloat16))
    encoder = network.model.parts()["encoder" if architecture == "one-tower" else "image_encoder"]
    # One that does not promise to compute in its parameters' dtype is given fp32.
    copies = Bf16Copies(following_modules(network))
    encoder.follows_dtype = False
    with copies.in_use():
        assert torch.equal(network.normalize(pixels), expected)


def test_overrides() -> None:
    assert [overrides(component, "pairs") for component in (ITM, VQA)] == [True, False]
    assert [overrides(component, "check_predictions") for component in (ITM, VQA)] == [False, True]
    # Inherited from the base of classifications; matching takes the contract's own again.
    assert [overrides(component, "predictions") for component in (ITM, SNLIVE)] == [False, True]
    made = SoundObjective.__new__(SoundObjective)
    assert overrides(made, "panel")
    assert not overrides(made, "similarity")


@pytest.mark.parametrize("itm", ["", "text = 'masked'", "negatives = 'hard'\nreplace = 'text'"])
def test_a_micro_batch_has_the_losses_of_one_with_padding(tmp_path: Path, itm: str) -> None:
    objectives = f"type = 'itm'\n{itm}\n\n[[objectives]]\ntype = 'itc'\nprojection_size = 8\n"
    text = TINY.replace('type = "itm"\nnegatives = "dataset"\n', objectives)
    parts = build(load_spec([str(write_spec(tmp_path, text))], load_plugins()), 1, True)
    network = parts.network.train()
    batch = parts.train[[(0, index) for index in range(12)]]
    assert batch.packing is not None
    assert (batch.shared_pairs is not None) == ("masked" in itm)
    padded = map_leaves(Pairs, lambda pairs: attrs.evolve(pairs, text_index=None), batch)
    padded = attrs.evolve(padded, packing=None)
    asked: list[list[bool]] = []
    fuse = network.model.fusion.fuse_rows

    def noted(*arguments: Any) -> Any:
        asked.append([use.text_index is not None for use in arguments[-1]])
        return fuse(*arguments)

    network.model.fusion.fuse_rows = noted
    losses = [
        {name: output.loss_sum for name, output in network(one).items()} for one in (batch, padded)
    ]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0.0)
    # Of texts that were chosen just now, it is not known which tokens are real.
    is_hard = "hard" in itm
    assert all(known for known in asked[0]) == (not is_hard)
    assert not any(asked[1])
