"""Draw the contact sheet of docs/data.md: generated scenes, prepared like your own images.

python docs/draw_contact_sheet.py docs/images/contact-sheet.png
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import ImageFilter, ImageOps

from renaissance import DatasetContext, SourceContext
from renaissance.builtin.datasets.shapes import Shapes
from renaissance.builtin.sources.image_text import ImageText
from renaissance.data.contact_sheet import draw_contact_sheet
from renaissance.data.prepare.writer import PrepareOptions, write_tables

NUM_IMAGES = 12
IMAGE_SIZE = 220


def main() -> None:
    """Write scenes and a captions file, prepare them, and draw the sheet of what was prepared."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = Shapes.Options(num_samples=NUM_IMAGES, image_size=IMAGE_SIZE)
        shapes = Shapes(options, DatasetContext(root=folder, seed=1, training=True))
        with (folder / "captions.jsonl").open("w") as captions:
            for number in range(NUM_IMAGES):
                sample = shapes.sample(number, np.random.default_rng(0))
                # Without the noise, which would make a large file.
                flat = ImageOps.posterize(sample.images[0].filter(ImageFilter.MedianFilter(5)), 4)
                flat.save(folder / f"{number}.png")
                line = {"image": f"{number}.png", "caption": sample.text}
                captions.write(json.dumps(line) + "\n")
        source = ImageText(ImageText.Options(name="shapes"), SourceContext(name))
        write_tables(source, PrepareOptions(output=folder / "data", progress=False))
        sheet = draw_contact_sheet(folder / "data" / "shapes_0.arrow")
    sheet.save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
