"""A model that scores pairs, as a CrossEncoder of sentence-transformers."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sentence_transformers import CrossEncoder

from renaissance.export import pair_scorer_module
from renaissance.export.probe import SEED, TEXTS, check_close
from renaissance.export.programs import export_torch
from renaissance.inference.model import Model

PACKAGES = ("sentence-transformers", "transformers", "torch", "pillow")


def export_reranker(model: Model, folder: Path) -> list[str]:
    """Write the model as a CrossEncoder, and compare; return what to print.

    It needs nothing of Renaissance: its parts are programs of torch.export, and the module that
    runs them is a file of the folder.

    Args:
        model: The model, on the CPU, with an image processor that does what its transform does.
        folder: A folder that is not there yet.

    Raises:
        RunError: If a part cannot be exported, or what is loaded again differs from the model.
    """
    folder.mkdir()
    export_torch(model, folder)
    source = Path(pair_scorer_module.__file__)
    shutil.copyfile(source, folder / source.name)
    kind = f"{source.stem}.{pair_scorer_module.PairScorer.__name__}"
    module = {"idx": 0, "name": "0", "path": "", "type": kind}
    (folder / "modules.json").write_text(json.dumps([module], indent=1))
    config = {
        "model_type": "CrossEncoder",
        "__version__": {
            "sentence_transformers": version("sentence-transformers"),
            "transformers": version("transformers"),
            "pytorch": version("torch"),
        },
        "activation_fn": "torch.nn.modules.activation.Sigmoid",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config, indent=1))
    # An older PyTorch may not read the programs.
    needed = [f"{name}>={version(name).partition('+')[0]}\n" for name in PACKAGES]
    (folder / "requirements.txt").write_text("".join(needed))
    difference = _difference(model, folder)
    return [f"reranker: differs by at most {difference:.1g}"]


def _difference(model: Model, folder: Path) -> float:
    """Compare what sentence-transformers loads with the model."""
    # Of the model's own size, so that no resizing may round differently.
    size = model.spec.data.image_size
    pixels = np.random.default_rng(SEED).integers(0, 256, (len(TEXTS), size, size, 3), np.uint8)
    images = [Image.fromarray(picture) for picture in pixels]
    loaded = CrossEncoder(str(folder), device="cpu", trust_remote_code=True)
    actual = loaded.predict(list(zip(TEXTS, images, strict=True)))
    probability = model.match(images, TEXTS).probability
    expected = np.zeros(0) if probability is None else probability.diagonal().copy()
    return check_close("reranker", torch.tensor(actual), torch.from_numpy(expected))
