"""Write the tables of known models into encoders.md. Run `python docs/families.py`.

Each family is tried with a tiny checkpoint of random weights.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.tiny_models import (
    IMAGE_MODELS,
    ROTARY_IMAGE,
    ROTARY_TEXT,
    TEXT_MODELS,
    context,
    save_model,
)
from support.whole_models import WHOLE_MODELS, make_whole

from renaissance import PluginError, PretrainedContrast
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder

FOLDER = Path(__file__).parent
MADE_BY = "made by docs/families.py -->\n"
WHOLES = f"<!-- families: {MADE_BY}", "<!-- end of families -->\n"
JOINTS = f"<!-- stacks: {MADE_BY}", "<!-- end of stacks -->\n"
# By the name of the tiny model.
STACKS = {
    "bert": "BERT",
    "electra": "ELECTRA",
    "roberta": "RoBERTa",
    "distilbert": "DistilBERT",
    "modernbert": "ModernBERT",
    "eurobert": "EuroBERT",
    "nomic_bert": "Nomic BERT",
    "gte": "GTE",
    "vit": "ViT",
    "deit": "DeiT",
    "beit": "BEiT",
    "clip": "CLIP's image part",
    "dinov3": "DINOv3",
    "swin": "Swin",
    "resnet": "ResNet",
    "convnext": "ConvNeXt",
}


def _text(checkpoint: str) -> HFTextEncoder | str:
    """Return the text encoder, or why it is refused."""
    try:
        return HFTextEncoder(HFTextEncoder.Options(checkpoint=checkpoint), context())
    except PluginError as error:
        return _refused(error)


def _image(checkpoint: str) -> HFImageEncoder | str:
    try:
        return HFImageEncoder(HFImageEncoder.Options(checkpoint=checkpoint), context())
    except PluginError as error:
        return _refused(error)


def _cells(checkpoint: str) -> list[str]:
    text, image = _text(checkpoint), _image(checkpoint)
    cells = []
    if isinstance(text, str):
        cells.append(text)
    else:
        # Of others, it depends on the tokenizer.
        cells.append("works; last token" if text.text_summary == "eos" else "works")
    if isinstance(image, str):
        cells.append(image)
    else:
        is_first = image.image_summary == "first"
        cells.append("works; class token" if is_first else "works; mean")
    both = not isinstance(text, str) and not isinstance(image, str)
    return [*cells, _compared(text.contrast, image.contrast) if both else ""]


def _compared(text: PretrainedContrast | None, image: PretrainedContrast | None) -> str:
    """Return what `itc` starts from with both towers of a model."""
    if text is None or image is None:
        return ""
    names = ["size"]
    if text.weights and image.weights:
        names.append("projections")
    names += [name for name in ("scale", "bias") if getattr(text, name) is not None]
    return ", ".join(names)


def _joint(checkpoint: str) -> str:
    try:
        encoder = HFJointEncoder(HFJointEncoder.Options(checkpoint=checkpoint), context())
    except PluginError as error:
        return _refused(error)
    notes = ["works"]
    if encoder.stack.rotary is not None:
        is_image = encoder.image_embeddings is None
        notes.append("patches rotate" if is_image else "image tokens go on after the text")
    if encoder.stack.window is not None:
        notes.append("local attention between text tokens alone")
    return "; ".join(notes)


def _refused(error: PluginError) -> str:
    reason = str(error).partition(": ")[2].partition(";")[0].replace("'", "`")
    return f"refused: {reason}"


def _rows() -> list[str]:
    rows = ["| model | `model_type` | `hf-text` | `hf-image` | `itc` |", "|-|-|-|-|-|"]
    for family, made in WHOLE_MODELS.items():
        with TemporaryDirectory() as folder:
            make_whole(family).save_pretrained(folder)
            rows.append(f"| {made.title} | `{family}` | {' | '.join(_cells(folder))} |")
    return rows


def _joint_rows() -> list[str]:
    rows = ["| model | `model_type` | `hf-joint` |", "|-|-|-|"]
    known = TEXT_MODELS | IMAGE_MODELS | ROTARY_TEXT | ROTARY_IMAGE
    for name, title in STACKS.items():
        with TemporaryDirectory() as folder:
            save_model(Path(folder), name)
            rows.append(f"| {title} | `{known[name][0]}` | {_joint(folder)} |")
    return rows


def with_tables(page: str) -> str:
    """Return the page with new tables."""
    return _with_rows(_with_rows(page, *WHOLES, _rows()), *JOINTS, _joint_rows())


def _with_rows(page: str, start: str, end: str, rows: list[str]) -> str:
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    return before + start + "\n" + "\n".join(rows) + "\n\n" + end + after


if __name__ == "__main__":
    path = FOLDER / "encoders.md"
    path.write_text(with_tables(path.read_text()))
