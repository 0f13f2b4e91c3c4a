"""Text encoders give packed texts the states that they give each text alone."""

from pathlib import Path

import pytest
import torch
from support.tiny_models import TEXT_MODELS, context, save_model

from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.encoders.huggingface.packing import PACKING_FAMILIES
from renaissance.data.packing import pack_texts

LENGTHS = [7, 3, 9, 4, 2, 16]
SEPARATOR = 3


def make(folder: Path, family: str) -> HFTextEncoder:
    # Both are RoBERTa with another vocabulary.
    kind = "roberta" if family in ("camembert", "xlm-roberta") else family
    save_model(folder, kind)
    config = TEXT_MODELS[kind][1]
    options = HFTextEncoder.Options(
        checkpoint=str(folder) if kind == family else None,
        architecture=None if kind == family else family,
        config={} if kind == family else {k: v for k, v in config.items() if k != "vocab_size"},
    )
    return HFTextEncoder(options, context(separator_id=SEPARATOR)).eval()


def padded_texts() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(16) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, 40, mask.shape, generator=torch.Generator().manual_seed(0))
    # A second text begins in the middle.
    ids[:, 1] = SEPARATOR
    return ids.masked_fill(~mask, 0), mask


@pytest.mark.parametrize("family", sorted(PACKING_FAMILIES))
def test_packed_equals_padded(family: str, tmp_path: Path) -> None:
    encoder = make(tmp_path, family)
    ids, mask = padded_texts()
    packing = pack_texts(LENGTHS, 16)
    assert packing is not None
    assert len(packing.texts) == 1
    calls = []
    encoder.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    packed = encoder.encode_packed(ids, mask, packing)
    padded = encoder.encode_text(ids, mask)
    assert calls == [(1, 64), (6, 16)]
    assert torch.equal(packed.attention_mask, mask)
    states, expected = packed.hidden_states[mask], padded.hidden_states[mask]
    # The weights of checkpoints are large here, and so are the states.
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(states, expected, rtol=1e-6, atol=1e-6 * largest)
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    gradients = []
    for tokens in (packed, padded):
        encoder.zero_grad()
        (tokens.hidden_states[mask] * weights).sum().backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    # Those of the biases of keys are 0 but for rounding.
    scale = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6 * scale)


def test_other_families_are_padded() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    options = HFTextEncoder.Options(architecture="albert", config={**sizes, "embedding_size": 8})
    encoder = HFTextEncoder(options, context()).eval()
    ids, mask = padded_texts()
    packing = pack_texts(LENGTHS, 16)
    assert packing is not None
    packed = encoder.encode_packed(ids, mask, packing)
    assert torch.equal(packed.hidden_states, encoder.encode_text(ids, mask).hidden_states)
