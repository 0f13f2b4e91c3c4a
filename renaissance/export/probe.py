"""Made-up inputs, on which exported programs must agree with the model."""

import attrs
import torch
from torch import Tensor

from renaissance.contracts.batches import Pairs
from renaissance.contracts.tokens import Tokens
from renaissance.errors import RunError
from renaissance.inference.model import Model

# Of different lengths, so that there is padding.
TEXTS = ("a dog", "two people on a red bench under a tree", "a photo of the sea at night")
NUM_ROWS = len(TEXTS)
SEED = 20
# Of the outputs of another program; ours must be equal to the bit.
TOLERANCE = 1e-4


@attrs.frozen
class Probe:
    """Inputs of a model, on the CPU.

    Attributes:
        input_ids: Token ids, (texts, tokens), int64.
        attention_mask: True where real, (texts, tokens), bool.
        pixel_values: Normalized pixels, (images, 3, size, size), as many images as texts.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pixel_values: Tensor

    @classmethod
    def of(cls, model: Model, num_rows: int = NUM_ROWS) -> "Probe":
        """Return inputs for a model: `TEXTS` in turn, and as many random images."""
        texts = [TEXTS[row % len(TEXTS)] for row in range(num_rows)]
        rows = [model.tokenizer.backend_tokenizer.encode(text).ids for text in texts]
        longest = max(map(len, rows))
        pad = int(model.tokenizer.pad_token_id)
        size = model.spec.data.image_size
        generator = torch.Generator().manual_seed(SEED)
        pixels = torch.randint(
            0, 256, (num_rows, 3, size, size), generator=generator, dtype=torch.uint8
        )
        return cls(
            torch.tensor([row + [pad] * (longest - len(row)) for row in rows]),
            torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows]),
            model.network.normalize(pixels),
        )

    @torch.no_grad()
    def outputs(self, model: Model) -> dict[str, Tensor]:
        """Return what a model makes of the inputs: token states, vectors, scores of pairs."""
        network = model.network
        text = network.model.encode_text(self.input_ids, self.attention_mask)
        image = network.model.encode_image(self.pixel_values)
        found = {"text": text.hidden_states[self.attention_mask], "image": image.hidden_states}
        for name, objective in network.overriding("embed").items():
            alone = {
                "text": network.model.text_features(text),
                "image": network.model.image_features(image),
            }
            for modality in objective.unimodal:
                vectors = objective.embed(alone[modality], modality)
                if vectors is not None:
                    found[f"{name} of {modality}s"] = vectors
        matching = network.overriding("match_score")
        if matching:
            pooled = _pooled(model, text, image)
            for name, objective in matching.items():
                scores = objective.match_score(pooled)
                if scores is not None:
                    found[f"{name} of pairs"] = scores
        return found


def _pooled(model: Model, text: Tokens, image: Tokens) -> Tensor:
    rows = torch.arange(len(text.hidden_states))
    return model.network.model.fuse(text, image, [Pairs(rows, rows)])[0].pooled


def check_close(what: str, actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> float:
    """Compare an output of another program with the model's.

    Args:
        what: What the output is, for the message.
        actual: The other program's.
        expected: The model's.
        tolerance: Largest difference allowed, absolute, or relative to the largest value.

    Returns:
        The largest difference.

    Raises:
        RunError: If they differ by more.
    """
    if actual.shape != expected.shape:
        raise RunError(
            f"{what}: its output has shape {tuple(actual.shape)}, the model's has "
            f"{tuple(expected.shape)}; nothing was exported"
        )
    if not expected.numel():
        return 0.0
    difference = float((actual - expected).abs().max())
    limit = tolerance * max(1.0, float(expected.abs().max()))
    # Not a number compares as False.
    if not difference <= limit:
        raise RunError(
            f"{what}: its output differs from the model's by up to {difference:.2g}, expected at "
            f"most {limit:.2g}; nothing was exported"
        )
    return difference
