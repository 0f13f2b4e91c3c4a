"""Write the table of known models into encoders.md. Run `python docs/families.py`.

Each family is tried with a tiny checkpoint of random weights.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.tiny_models import context
from support.whole_models import WHOLE_MODELS, make_whole

from renaissance import PluginError
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder

FOLDER = Path(__file__).parent
START, END = "<!-- families: made by docs/families.py -->\n", "<!-- end of families -->\n"


def _text(checkpoint: str) -> str:
    try:
        encoder = HFTextEncoder(HFTextEncoder.Options(checkpoint=checkpoint), context())
    except PluginError as error:
        return _refused(error)
    # Of others, it depends on the tokenizer.
    return "works; last token" if encoder.text_summary == "eos" else "works"


def _image(checkpoint: str) -> str:
    try:
        encoder = HFImageEncoder(HFImageEncoder.Options(checkpoint=checkpoint), context())
    except PluginError as error:
        return _refused(error)
    return "works; class token" if encoder.image_summary == "first" else "works; mean"


def _refused(error: PluginError) -> str:
    reason = str(error).partition(": ")[2].partition(";")[0].replace("'", "`")
    return f"refused: {reason}"


def _rows() -> list[str]:
    rows = ["| model | `model_type` | `hf-text` | `hf-image` |", "|-|-|-|-|"]
    for family, made in WHOLE_MODELS.items():
        with TemporaryDirectory() as folder:
            make_whole(family).save_pretrained(folder)
            rows.append(f"| {made.title} | `{family}` | {_text(folder)} | {_image(folder)} |")
    return rows


def with_table(page: str) -> str:
    """Return the page with a new table."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return before + START + "\n" + "\n".join(_rows()) + "\n\n" + END + after


if __name__ == "__main__":
    path = FOLDER / "encoders.md"
    path.write_text(with_table(path.read_text()))
