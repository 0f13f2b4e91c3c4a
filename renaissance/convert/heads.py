"""Heads of ViLT, METER, LXMERT and the earlier Renaissance as those of our objectives."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Names of their heads of one hidden layer: those of the authors' code, and ViltFor...'s, which
# depends on the task.
CLASSIFIERS = {
    "vqa_classifier": "vqa",
    "nlvr2_classifier": "nlvr2",
    "snli_classifier": "snli-ve",
    "ref_classifier": "refcoco",
}
# The data that each task is about; those of a classifier come first.
DATASETS = {
    "vqa": "vqav2",
    "nlvr2": "nlvr2",
    "snli-ve": "snli-ve",
    "refcoco": "refcoco",
    "retrieval": "f30k",
}
DEFAULT_DATASET = "coco"
MLP_PARTS = {"0": "dense", "1": "layer_norm", "3": "decoder"}
NAMED_MLP_PARTS = {"dense": "dense", "layer_norm": "layer_norm", "out_proj": "decoder"}


def take(tensors: Mapping[str, Tensor], module: str, ours: str) -> dict[str, Tensor]:
    """Return the tensors of a module by our names."""
    prefix = f"{module}."
    return {
        f"{ours}.{name.removeprefix(prefix)}": tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


class Heads:
    """The heads in a checkpoint.

    Args:
        tensors: The checkpoint's tensors.
        labels: Names of the classes by index, where the checkpoint has them.

    Attributes:
        tensors: Those of the heads, by our names.
        names: Their names in the checkpoint.
        answers: What `classes.json` keeps, by objective.
    """

    def __init__(self, tensors: Mapping[str, Tensor], labels: Mapping[int, str]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: set[str] = set()
        self.answers: dict[str, dict[str, Any]] = {}
        self._source = tensors
        self._tables: list[dict[str, Any]] = []
        self._masked_words()
        self._matching()
        for module, objective in self._classifiers().items():
            self._classifier(module, objective, labels)

    def tables(self) -> list[dict[str, Any]]:
        """Return the tables of the objectives."""
        return self._tables

    def datasets(self) -> dict[str, list[dict[str, str]]]:
        """Return the tables of the data that the objectives are about."""
        types = {table["type"] for table in self._tables}
        names = [name for objective, name in DATASETS.items() if objective in types]
        table = {"type": [*names, DEFAULT_DATASET][0]}
        return {"train": [table], "validate": [table]}

    def _classifiers(self) -> dict[str, str]:
        found = {
            module: objective
            for module, objective in CLASSIFIERS.items()
            if any(f"{module}.{part}.weight" in self._source for part in ("0", "dense"))
        }
        first = self._source.get("classifier.0.weight")
        if first is not None:
            # Of one pooled vector for VQA, and of those of two images for NLVR2.
            found["classifier"] = "nlvr2" if len(first) == first.shape[1] else "vqa"
        return found

    def _add(self, objective: str, parts: Mapping[str, str], **settings: object) -> None:
        """Add a head, given the names of its modules in the checkpoint and here."""
        for module, ours in parts.items():
            found = take(self._source, module, f"objectives.{objective}.head.{ours}")
            self.tensors |= found
            self.names |= {name for name in self._source if name.startswith(f"{module}.")}
        self._tables.append({"type": objective, **settings})

    def _masked_words(self) -> None:
        if "mlm_score.transform.dense.weight" not in self._source:
            return
        parts = {"transform.dense": "dense", "transform.LayerNorm": "layer_norm"}
        parts["decoder"] = "decoder"
        self._add("mlm", {f"mlm_score.{module}": ours for module, ours in parts.items()})
        head = "objectives.mlm.head.decoder"
        # transformers ties the projection to the words; the authors keep its bias beside it.
        words = self._source.get("embeddings.text_embeddings.word_embeddings.weight")
        if words is not None:
            self.tensors.setdefault(f"{head}.weight", words)
        if "mlm_score.bias" in self._source:
            self.tensors[f"{head}.bias"] = self._source["mlm_score.bias"]
            self.names.add("mlm_score.bias")

    def _matching(self) -> None:
        if "itm_score.fc.weight" in self._source:
            self._add("itm", {"itm_score.fc": "decoder"})
        if "rank_output.weight" in self._source:
            self._add("retrieval", {"rank_output": "decoder"})
            # Their score is one logit, and ours the difference of two: the other is 0.
            for name in ("weight", "bias"):
                ours = f"objectives.retrieval.head.decoder.{name}"
                score = self.tensors[ours]
                self.tensors[ours] = torch.cat([torch.zeros_like(score), score])

    def _classifier(self, module: str, objective: str, labels: Mapping[int, str]) -> None:
        is_numbered = f"{module}.0.weight" in self._source
        names = MLP_PARTS if is_numbered else NAMED_MLP_PARTS
        parts = {f"{module}.{theirs}": ours for theirs, ours in names.items()}
        first = next(iter(parts))
        hidden_size = len(self._source[f"{first}.weight"])
        self._add(objective, parts, head={"type": "mlp", "hidden_size": hidden_size})
        if objective == "vqa":
            num_answers = len(self.tensors.get("objectives.vqa.head.decoder.weight", ()))
            answers = [labels.get(i, f"answer {i}") for i in range(num_answers)]
            self.answers["vqa"] = {"kept": {"answers": answers}}
