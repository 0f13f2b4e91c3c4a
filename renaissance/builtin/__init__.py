"""The first-party plugin: every built-in component, registered through the public hooks."""

from collections.abc import Callable
from typing import Any

from renaissance import hookimpl
from renaissance.builtin.datasets.coco import Coco
from renaissance.builtin.datasets.f30k import Flickr30k
from renaissance.builtin.datasets.gcc import GCC
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.builtin.datasets.nlvr2 import NLVR2Data
from renaissance.builtin.datasets.refcoco import RefCOCOData, RefCOCOg, RefCOCOPlus
from renaissance.builtin.datasets.sbu import SBU
from renaissance.builtin.datasets.shapes import Shapes
from renaissance.builtin.datasets.snli_ve import SNLIVEData
from renaissance.builtin.datasets.vg import VisualGenome
from renaissance.builtin.datasets.vqav2 import VQAv2
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.fusions.co_attention import CoAttention
from renaissance.builtin.fusions.lxmert import Lxmert
from renaissance.builtin.fusions.merged_attention import MergedAttention
from renaissance.builtin.heads.linear import Linear
from renaissance.builtin.heads.mlm import MLMHead
from renaissance.builtin.heads.mlp import MLP
from renaissance.builtin.objectives.itc import ITC
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.builtin.objectives.nlvr2 import NLVR2
from renaissance.builtin.objectives.refcoco import RefCOCO
from renaissance.builtin.objectives.retrieval import Retrieval
from renaissance.builtin.objectives.snli_ve import SNLIVE
from renaissance.builtin.objectives.vqa import VQA
from renaissance.builtin.poolers.double import Double
from renaissance.builtin.poolers.mean import Mean
from renaissance.builtin.poolers.single import Single

Register = Callable[[str, type[Any]], None]


@hookimpl
def register_encoders(register: Register) -> None:
    """Register the built-in encoders."""
    register("hf-text", HFTextEncoder)
    register("hf-image", HFImageEncoder)
    register("hf-joint", HFJointEncoder)


@hookimpl
def register_fusions(register: Register) -> None:
    """Register the built-in fusion modules."""
    register("co-attention", CoAttention)
    register("lxmert", Lxmert)
    register("merged-attention", MergedAttention)


@hookimpl
def register_poolers(register: Register) -> None:
    """Register the built-in poolers."""
    register("double", Double)
    register("single", Single)
    register("mean", Mean)


@hookimpl
def register_heads(register: Register) -> None:
    """Register the built-in heads."""
    register("linear", Linear)
    register("mlp", MLP)
    register("mlm", MLMHead)


@hookimpl
def register_objectives(register: Register) -> None:
    """Register the built-in objectives."""
    register("mlm", MLM)
    register("itm", ITM)
    register("itc", ITC)
    register("retrieval", Retrieval)
    register("vqa", VQA)
    register("nlvr2", NLVR2)
    register("snli-ve", SNLIVE)
    register("refcoco", RefCOCO)


@hookimpl
def register_datasets(register: Register) -> None:
    """Register the built-in datasets."""
    register("shapes", Shapes)
    register("image-text", ImageText)
    register("coco", Coco)
    register("f30k", Flickr30k)
    register("vg", VisualGenome)
    register("sbu", SBU)
    register("gcc", GCC)
    register("vqav2", VQAv2)
    register("nlvr2", NLVR2Data)
    register("snli-ve", SNLIVEData)
    register("refcoco", RefCOCOData)
    register("refcoco+", RefCOCOPlus)
    register("refcocog", RefCOCOg)
