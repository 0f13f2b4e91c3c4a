"""The first-party plugin: every built-in component, registered through the public hooks.

Each hook imports only what it registers, so a command that needs one kind does not wait for the
others: listing sources imports neither torch nor transformers.
"""

from collections.abc import Callable

from renaissance import hookimpl

Register = Callable[[str, type[object]], None]


@hookimpl
def register_encoders(register: Register) -> None:
    """Register the built-in encoders."""
    from renaissance.builtin.encoders.hf_image import HFImageEncoder
    from renaissance.builtin.encoders.hf_joint import HFJointEncoder
    from renaissance.builtin.encoders.hf_text import HFTextEncoder

    register("hf-text", HFTextEncoder)
    register("hf-image", HFImageEncoder)
    register("hf-joint", HFJointEncoder)


@hookimpl
def register_fusions(register: Register) -> None:
    """Register the built-in fusion modules."""
    from renaissance.builtin.fusions.co_attention import CoAttention
    from renaissance.builtin.fusions.cross_attention import CrossAttention
    from renaissance.builtin.fusions.lxmert import Lxmert
    from renaissance.builtin.fusions.merged_attention import MergedAttention
    from renaissance.builtin.fusions.none import NoFusion

    register("co-attention", CoAttention)
    register("cross-attention", CrossAttention)
    register("lxmert", Lxmert)
    register("merged-attention", MergedAttention)
    register("none", NoFusion)


@hookimpl
def register_poolers(register: Register) -> None:
    """Register the built-in poolers."""
    from renaissance.builtin.poolers.double import Double
    from renaissance.builtin.poolers.mean import Mean
    from renaissance.builtin.poolers.single import Single

    register("double", Double)
    register("single", Single)
    register("mean", Mean)


@hookimpl
def register_heads(register: Register) -> None:
    """Register the built-in heads."""
    from renaissance.builtin.heads.linear import Linear
    from renaissance.builtin.heads.mlm import MLMHead
    from renaissance.builtin.heads.mlp import MLP

    register("linear", Linear)
    register("mlp", MLP)
    register("mlm", MLMHead)


@hookimpl
def register_objectives(register: Register) -> None:
    """Register the built-in objectives."""
    from renaissance.builtin.objectives.classification import LabelClassification
    from renaissance.builtin.objectives.itc import ITC
    from renaissance.builtin.objectives.itm import ITM
    from renaissance.builtin.objectives.mlm import MLM
    from renaissance.builtin.objectives.nlvr2 import NLVR2
    from renaissance.builtin.objectives.refcoco import RefCOCO
    from renaissance.builtin.objectives.regression import Regression
    from renaissance.builtin.objectives.retrieval import Retrieval
    from renaissance.builtin.objectives.snli_ve import SNLIVE
    from renaissance.builtin.objectives.vqa import VQA
    from renaissance.builtin.objectives.zero_shot import ZeroShot

    register("mlm", MLM)
    register("itm", ITM)
    register("itc", ITC)
    register("retrieval", Retrieval)
    register("vqa", VQA)
    register("nlvr2", NLVR2)
    register("snli-ve", SNLIVE)
    register("refcoco", RefCOCO)
    register("classification", LabelClassification)
    register("regression", Regression)
    register("zero-shot", ZeroShot)


@hookimpl
def register_datasets(register: Register) -> None:
    """Register the built-in datasets."""
    from renaissance.builtin.datasets.coco import Coco
    from renaissance.builtin.datasets.f30k import Flickr30k
    from renaissance.builtin.datasets.gcc import GCC
    from renaissance.builtin.datasets.image_text import ImageText
    from renaissance.builtin.datasets.nlvr2 import NLVR2Data
    from renaissance.builtin.datasets.refcoco import RefCOCOData, RefCOCOg, RefCOCOPlus
    from renaissance.builtin.datasets.sbu import SBU
    from renaissance.builtin.datasets.shapes import Shapes
    from renaissance.builtin.datasets.snli_ve import SNLIVEData
    from renaissance.builtin.datasets.table import Table
    from renaissance.builtin.datasets.vg import VisualGenome
    from renaissance.builtin.datasets.vqav2 import VQAv2

    register("shapes", Shapes)
    register("image-text", ImageText)
    register("table", Table)
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


@hookimpl
def register_optimizers(register: Register) -> None:
    """Register the built-in optimizers."""
    from renaissance.builtin.optimizers.adam import Adam, AdamW
    from renaissance.builtin.optimizers.muon import Muon
    from renaissance.builtin.optimizers.sgd import SGD

    register("adamw", AdamW)
    register("adam", Adam)
    register("sgd", SGD)
    register("muon", Muon)


@hookimpl
def register_monitors(register: Register) -> None:
    """Register the built-in monitors."""
    from renaissance.builtin.monitors.console import Console
    from renaissance.builtin.monitors.jsonl import JsonLines
    from renaissance.builtin.monitors.tensorboard import TensorBoard

    register("console", Console)
    register("jsonl", JsonLines)
    register("tensorboard", TensorBoard)


@hookimpl
def register_transforms(register: Register) -> None:
    """Register the built-in image transforms."""
    from renaissance.builtin.transforms.clip import CLIP
    from renaissance.builtin.transforms.imagenet import ImageNet
    from renaissance.builtin.transforms.pixelbert import PixelBERT
    from renaissance.builtin.transforms.stretch import Stretch
    from renaissance.builtin.transforms.vit import ViT

    register("imagenet", ImageNet)
    register("vit", ViT)
    register("clip", CLIP)
    register("pixelbert", PixelBERT)
    register("stretch", Stretch)


@hookimpl
def register_sources(register: Register) -> None:
    """Register the built-in sources."""
    from renaissance.builtin.sources.coco import Coco
    from renaissance.builtin.sources.f30k import Flickr30k
    from renaissance.builtin.sources.gcc import GCC
    from renaissance.builtin.sources.image_text import ImageText
    from renaissance.builtin.sources.karpathy import Karpathy
    from renaissance.builtin.sources.nlvr2 import NLVR2
    from renaissance.builtin.sources.refcoco import RefCOCO, RefCOCOg, RefCOCOPlus
    from renaissance.builtin.sources.sbu import SBU
    from renaissance.builtin.sources.snli_ve import SNLIVE
    from renaissance.builtin.sources.vg import VisualGenome
    from renaissance.builtin.sources.vqav2 import VQAv2

    register("image-text", ImageText)
    register("karpathy", Karpathy)
    register("coco", Coco)
    register("f30k", Flickr30k)
    register("vg", VisualGenome)
    register("sbu", SBU)
    register("gcc", GCC)
    register("vqav2", VQAv2)
    register("nlvr2", NLVR2)
    register("snli-ve", SNLIVE)
    register("refcoco", RefCOCO)
    register("refcoco+", RefCOCOPlus)
    register("refcocog", RefCOCOg)
