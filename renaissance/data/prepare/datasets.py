"""The datasets that can be prepared, by name."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from renaissance.data.prepare.records import Source
from renaissance.data.prepare.sources.coco import coco_source
from renaissance.data.prepare.sources.f30k import f30k_source
from renaissance.data.prepare.sources.gcc import gcc_source
from renaissance.data.prepare.sources.karpathy import karpathy_source
from renaissance.data.prepare.sources.nlvr2 import nlvr2_source
from renaissance.data.prepare.sources.refcoco import DIVISIONS, refcoco_source
from renaissance.data.prepare.sources.sbu import sbu_source
from renaissance.data.prepare.sources.snli_ve import snli_ve_source
from renaissance.data.prepare.sources.vg import vg_source
from renaissance.data.prepare.sources.vqav2 import vqav2_source

# Lists the records of a folder, and of some of its splits or all. `image-text` is not among them:
# its source may be an address.
SOURCES: Mapping[str, Callable[[Path, Sequence[str] | None], Source]] = {
    "coco": coco_source,
    "f30k": f30k_source,
    "karpathy": karpathy_source,
    "vg": vg_source,
    "sbu": sbu_source,
    "gcc": gcc_source,
    "vqav2": vqav2_source,
    "nlvr2": nlvr2_source,
    "snli-ve": snli_ve_source,
} | {dataset: functools.partial(refcoco_source, dataset) for dataset in DIVISIONS}
