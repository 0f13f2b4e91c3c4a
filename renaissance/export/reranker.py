"""A re-ranker of pairs of a text and an image, as a module of sentence-transformers."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from PIL import Image
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from renaissance.contracts.batches import Pairs
from renaissance.contracts.tokens import Tokens
from renaissance.data.collate import RowBuilder
from renaissance.engine.run_folder import RunFolder
from renaissance.export.huggingface import write_model
from renaissance.export.probe import SEED, TEXTS, check_close
from renaissance.inference.loading import load
from renaissance.inference.model import Model
from renaissance.inference.rows import Rows


class Reranker(InputModule):  # type: ignore[misc]
    """Scores pairs of a text and an image, in either order.

    Args:
        model: The model.
        folder: The folder that it was loaded from.
    """

    def __init__(self, model: Model, folder: Path) -> None:
        super().__init__()
        self.network = model.network
        self.tokenizer = model.tokenizer
        self._model = model
        self._folder = folder

    @property
    def modalities(self) -> list[Any]:
        """Texts, images, and pairs of them."""
        return ["text", "image", ("image", "text")]

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return token ids, pixels, and which of them each pair has.

        Args:
            inputs: Pairs of a text and an image.
            prompt: Not used.
            **kwargs: Not used.
        """
        reader = self._model.reader(Rows([_row(pair) for pair in inputs]))
        builder = RowBuilder(reader)
        samples = [reader.sample(0, index) for index in range(len(inputs))]
        rows = {
            "text_rows": torch.tensor([builder.text(sample) for sample in samples]),
            "image_rows": torch.tensor([builder.image(sample) for sample in samples]),
        }
        batch = builder.micro_batch(samples, {}, {})
        found = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "pixel_values": batch.pixel_values,
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None} | rows

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Add the log-odds of a match as "scores", (pairs, 1)."""
        model = self.network.model
        matching = next(iter(self.network.overriding("match_score").values()))
        text: Tokens = model.encode_text(features["input_ids"], features["attention_mask"])
        image: Tokens = model.encode_image(self.network.normalize(features["pixel_values"]))
        pairs = Pairs(features["text_rows"], features["image_rows"])
        scores = matching.match_score(model.fuse(text, image, [pairs])[0].pooled)
        return features if scores is None else features | {"scores": scores[:, None]}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Copy the folder that the model was loaded from."""
        shutil.copytree(self._folder, output_path, dirs_exist_ok=True)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> "Reranker":
        """Load the model from its folder, or from the hub.

        Args:
            model_name_or_path: The folder, or its name on the hub.
            **kwargs: Not used.
        """
        folder = Path(cls.load_dir_path(model_name_or_path) or model_name_or_path)
        return cls(load(folder, device="cpu"), folder)


def _row(pair: Any) -> Mapping[str, object]:
    if isinstance(pair, Mapping):
        return {"text": pair["text"], "image": pair["image"]}
    first, second = pair
    text, image = (first, second) if isinstance(first, str) else (second, first)
    return {"text": text, "image": image}


def export_reranker(model: Model, run: RunFolder, folder: Path) -> list[str]:
    """Write the model as a CrossEncoder, and compare; return what to print.

    Args:
        model: The model, on the CPU.
        run: The run folder that it was loaded from.
        folder: A folder that is not there yet.

    Raises:
        RunError: If what is loaded again differs from the model.
    """
    folder.mkdir()
    write_model(model, run, folder)
    module = {"idx": 0, "name": "0", "path": "", "type": f"{__name__}.{Reranker.__name__}"}
    (folder / "modules.json").write_text(json.dumps([module], indent=1))
    versions = {
        "sentence_transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "pytorch": torch.__version__,
    }
    config = {
        "model_type": "CrossEncoder",
        "__version__": versions,
        "activation_fn": "torch.nn.modules.activation.Sigmoid",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config, indent=1))
    pixels = np.random.default_rng(SEED).integers(0, 256, (len(TEXTS), 40, 60, 3), np.uint8)
    images = [Image.fromarray(picture) for picture in pixels]
    loaded = CrossEncoder(str(folder), device="cpu", trust_remote_code=True)
    actual = loaded.predict(list(zip(TEXTS, images, strict=True)))
    probability = model.match(images, TEXTS).probability
    expected = np.zeros(0) if probability is None else probability.diagonal().copy()
    difference = check_close("reranker", torch.tensor(actual), torch.from_numpy(expected))
    return [f"reranker: differs by at most {difference:.1g}"]
