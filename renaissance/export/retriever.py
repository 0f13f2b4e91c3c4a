"""Embeddings as a model of sentence-transformers, made of its own modules alone.

Texts and images each have a route: transformer, pooling, linear layer, normalization. Where the run
scores fused pairs too, a re-ranker stands beside it (see `reranker`).
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.base.modules.module import Module
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from torch import nn

from renaissance.contracts.tokens import Modality, Summary
from renaissance.data.preprocessor import FILE as PREPROCESSOR
from renaissance.engine.run_folder import RunFolder
from renaissance.errors import RunError, SpecError
from renaissance.export.card import CARD, Exported, card
from renaissance.export.probe import SEED, TEXTS, check_close
from renaissance.export.reranker import export_reranker
from renaissance.export.towers import Tower, encoders, export_towers
from renaissance.inference.model import Model

RERANKER = "reranker"
POOLING_MODES: Mapping[Summary, str] = {"first": "cls", "mean": "mean", "eos": "lasttoken"}
USE = """```python
from sentence_transformers import SentenceTransformer

retriever = SentenceTransformer("{name}")
similarity = retriever.similarity(retriever.encode(["a dog"]), retriever.encode({documents}))
```
"""
RERANK = """
`reranker/` scores pairs of a text and an image together. Its module is the file
`pair_scorer_module.py` in that folder, which `trust_remote_code` lets run:

```python
from sentence_transformers import CrossEncoder

reranker = CrossEncoder({folder}, trust_remote_code=True)
reranker.rank("a dog", [image_1, image_2])  # images of PIL
```
"""


def export_retriever(
    model: Model, run: RunFolder, folder: Path, name: str, command: Sequence[str]
) -> list[str]:
    """Write a SentenceTransformer and, if the run scores pairs, a CrossEncoder beside it.

    Args:
        model: The model, on the CPU.
        run: The run folder that it was loaded from.
        folder: An empty folder.
        name: Name of the model, for its card.
        command: The command line, without the program, for its card.

    Returns:
        What was written, in words.

    Raises:
        SpecError: If the run learns no embeddings that such modules can express.
        RunError: If what is loaded again differs from the model.
    """
    layers = _layers(model)
    with tempfile.TemporaryDirectory() as temporary:
        towers = {tower.name: tower for tower in export_towers(model, Path(temporary))}
        routes = {
            modality: _route(Path(temporary), towers[f"{modality}_encoder"], model, modality, last)
            for modality, last in layers.items()
            if modality == "text" or (Path(temporary) / "image_encoder" / PREPROCESSOR).is_file()
        }
    router = Router(
        routes,
        default_route="text",
        route_mappings={(None, modality): modality for modality in routes},
    )
    made = SentenceTransformer(modules=[router], device="cpu", similarity_fn_name="cosine")
    made.save_pretrained(str(folder), create_model_card=False)
    lines = _check(model, folder, list(routes))
    use = USE.format(name=name, documents="images" if "image" in routes else "texts")
    # Without an image processor, the vectors have no images either, and `_check` says so.
    if model.network.overriding("match_score") and "image" in routes:
        lines += export_reranker(model, folder / RERANKER)
        # The hub has no name for a folder in a repository.
        local = f'snapshot_download("{name}") + "/{RERANKER}"'
        use += RERANK.format(folder=local if "/" in name else f'"{name}/{RERANKER}"')
    exported = Exported(name, command, folder, use, "sentence-transformers")
    (folder / CARD).write_text(card(model, run, exported), encoding="utf-8")
    return lines


def _layers(model: Model) -> Mapping[Modality, tuple[nn.LayerNorm | None, nn.Linear]]:
    """Return the last layer of each modality, and the norm before it, if there is one."""
    tables = encoders(model.network)
    missing = [name for name, encoder in tables.items() if encoder.transformers_model() is None]
    if missing or "text_encoder" not in tables:
        raise SpecError(
            f"--to sentence-transformers: {', '.join(missing) or 'the encoder'} is not a model of "
            "transformers alone; expected a two-tower model of hf-text and hf-image. Use --to hf"
        )
    for objective in model.network.overriding("embed").values():
        text, image = objective.embedding_layer("text"), objective.embedding_layer("image")
        if text is not None and image is not None:
            return {
                "text": (objective.embedding_norm("text"), text),
                "image": (objective.embedding_norm("image"), image),
            }
    raise SpecError(
        f"--to sentence-transformers: none of the objectives ({', '.join(model.objectives)}) "
        "learns embeddings by a linear layer; train with itc"
    )


def _route(
    folder: Path,
    tower: Tower,
    model: Model,
    modality: Modality,
    last: tuple[nn.LayerNorm | None, nn.Linear],
) -> list[Module]:
    norm, layer = last
    network = model.network.model
    summary = network.text_summary if modality == "text" else network.image_summary
    transformer = Transformer(str(folder / tower.name), model_kwargs=dict(tower.arguments))
    dense = Dense(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        activation_function=nn.Identity(),
    )
    dense.linear.load_state_dict(layer.state_dict())
    pooling = Pooling(layer.in_features, pooling_mode=POOLING_MODES[summary])
    if norm is None:
        return [transformer, pooling, dense, Normalize()]
    normalizing = LayerNorm(layer.in_features)
    normalizing.norm.load_state_dict(norm.state_dict())
    return [transformer, pooling, normalizing, dense, Normalize()]


def _check(model: Model, folder: Path, modalities: Sequence[Modality]) -> list[str]:
    """Compare what plain sentence-transformers loads with the model; return what to print."""
    loaded = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    # Of the model's own size, so that no resizing may round differently.
    size = model.spec.data.image_size
    pixels = np.random.default_rng(SEED).integers(0, 256, (len(TEXTS), size, size, 3), np.uint8)
    images = [Image.fromarray(picture) for picture in pixels]
    texts = list(TEXTS)
    lines = []
    for modality in modalities:
        actual = loaded.encode(texts if modality == "text" else images, convert_to_tensor=True)
        expected = model.embed(texts=texts) if modality == "text" else model.embed(images=images)
        if not isinstance(actual, torch.Tensor):
            raise RunError(f"sentence-transformers gave a {type(actual).__name__} for {modality}s")
        difference = check_close(f"{modality}s", actual.cpu(), torch.from_numpy(expected))
        lines.append(f"{modality}s: differ by at most {difference:.1g}")
    if "image" not in modalities:
        lines.append(
            f"images: no image processor of transformers does what the transform "
            f"'{model.spec.data.transform.type}' does; only texts are embedded"
        )
    return lines
