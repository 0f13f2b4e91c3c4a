"""A re-ranker of pairs of a text and an image, as a module of sentence-transformers.

Renaissance copies this file into the folder of an exported re-ranker, beside the programs that it
runs (torch.export). It imports nothing of Renaissance.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor
from torch.export.passes import move_to_device_pass
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.image_utils import load_image

PROGRAMS = ("text_encoder", "image_encoder", "pair_scorer")


class PairScorer(InputModule):  # type: ignore[misc]
    """Scores pairs of a text and an image, in either order.

    Args:
        folder: The folder with the programs, the tokenizer and the image processor.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder)
        # Moves with the module and so tells the device, which is fixed in a program.
        self.register_buffer("place", torch.empty(0), persistent=False)
        self._programs: dict[str, Any] = {}
        self._device: torch.device | None = None

    @property
    def modalities(self) -> list[Any]:
        """Texts, images, and pairs of them."""
        return ["text", "image", ("image", "text")]

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return token ids, pixels, and which of them each pair has.

        Args:
            inputs: Pairs of a text and an image: a file, an address or an image of PIL.
            prompt: Not used.
            **kwargs: Not used.
        """
        pairs = [_split(pair) for pair in inputs]
        texts = list(dict.fromkeys(text for text, _ in pairs))
        images = {id(image): image for _, image in pairs}
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        pixels = self.processor([load_image(i) for i in images.values()], return_tensors="pt")
        image_ids = list(images)
        return {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "pixel_values": pixels["pixel_values"],
            "text_rows": torch.tensor([texts.index(text) for text, _ in pairs]),
            "image_rows": torch.tensor([image_ids.index(id(image)) for _, image in pairs]),
        }

    @torch.no_grad()
    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Add the log-odds of a match as "scores", (pairs, 1)."""
        encode_text, encode_image, score = self._on_device()
        text_rows, image_rows = features["text_rows"], features["image_rows"]
        mask = features["attention_mask"]
        text_states = encode_text(features["input_ids"], mask)[0][text_rows]
        image_states = encode_image(features["pixel_values"])[0][image_rows]
        (scores,) = score(text_states, mask[text_rows], image_states)
        return features | {"scores": scores[:, None]}

    def _on_device(self) -> list[Any]:
        """Return the programs for the device of the module."""
        device = self.place.device
        if device != self._device:
            for name in PROGRAMS:
                program = torch.export.load(self.folder / f"{name}.pt2")
                self._programs[name] = move_to_device_pass(program, device).module()
            self._device = device
        return [self._programs[name] for name in PROGRAMS]

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Copy the folder that the module was loaded from."""
        shutil.copytree(self.folder, output_path, dirs_exist_ok=True)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> "PairScorer":
        """Load the module from its folder, or from the hub.

        Args:
            model_name_or_path: The folder, or its name on the hub.
            **kwargs: Not used.
        """
        return cls(Path(cls.load_dir_path(model_name_or_path) or model_name_or_path))


def _split(pair: Any) -> tuple[str, Any]:
    """Return the text and the image of a pair, which `rank` may give in either order."""
    if isinstance(pair, Mapping):
        return pair["text"], pair["image"]
    first, second = pair
    return (first, second) if isinstance(first, str) else (second, first)
