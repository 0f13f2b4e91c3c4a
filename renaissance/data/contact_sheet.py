"""A grid of images with their texts and labels: a look at a dataset."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from renaissance.data.arrow import ArrowTable
from renaissance.data.images import open_image, to_rgb, upright
from renaissance.data.inspect import IMAGE_COLUMNS, row_texts, schema_of

COLUMNS = 4
CELL = 220
TEXT_LINES = 9
LINE = 14
MARGIN = 8
FONT_SIZE = 12
CHARACTERS = 34
# Of the row's number, and of the texts.
INK = ("#707070", "black")
# Of the boxes, and of the one that is meant.
BOX_COLOURS = ("#9a9a9a", "#e02020")
# What stands for a label, where the file has numbers.
SNLI_LABELS = ("contradiction", "neutral", "entailment")


def draw_contact_sheet(path: Path, num_rows: int = 12) -> Image.Image:
    """Draw rows of a file, evenly over it, with texts, answers or labels, and boxes.

    Args:
        path: The Arrow file.
        num_rows: How many rows to draw.

    Raises:
        DataError: If the file or an image cannot be read.
    """
    schema = schema_of(path)
    table = ArrowTable([path], tuple(schema))
    count = min(num_rows, len(table))
    rows = [place * len(table) // count for place in range(count)]
    texts = [[f"row {row}", *_lines(row_labels(table, list(schema), row))] for row in rows]
    height = CELL + max(map(len, texts)) * LINE + 2 * MARGIN
    shape = (COLUMNS * (CELL + MARGIN) + MARGIN, -(-count // COLUMNS) * height + MARGIN)
    sheet = Image.new("RGB", shape, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for place, (row, lines) in enumerate(zip(rows, texts, strict=True)):
        left = MARGIN + place % COLUMNS * (CELL + MARGIN)
        top = MARGIN + place // COLUMNS * height
        sheet.paste(_picture(table, list(schema), row), (left, top))
        for number, line in enumerate(lines):
            draw.text((left, top + CELL + 2 + number * LINE), line, INK[number > 0], font)
    return sheet


def row_labels(table: ArrowTable, columns: Sequence[str], row: int) -> list[str]:
    """Return the texts of a row, each with its label or answers where the file has them."""
    texts = row_texts(table, columns, row)

    def values(column: str) -> list[Any]:
        value = table.value(column, row).as_py() if column in columns else None
        return value if isinstance(value, list) else []

    if "answer_scores" in columns:
        given = zip(texts, values("answers"), values("answer_scores"), strict=False)
        answered = [
            f"{text} {', '.join(f'{a} {s:.1f}' for a, s in zip(answers, scores, strict=True))}"
            for text, answers, scores in given
        ]
        return answered or texts
    if "answers" in columns:
        return [f"{text} [{a}]" for text, a in zip(texts, values("answers"), strict=True)]
    if "labels" in columns and "bboxes" not in columns:
        labels = [SNLI_LABELS[label] for label in values("labels")]
        return [f"{text} [{label}]" for text, label in zip(texts, labels, strict=True)]
    return texts


def _lines(texts: Sequence[str]) -> list[str]:
    """Return the lines that the texts take; how many are left out, if they take too many."""
    lines: list[str] = []
    for number, text in enumerate(texts):
        more = textwrap.wrap(
            text,
            CHARACTERS,
            subsequent_indent="    ",
            max_lines=TEXT_LINES - 2,
            placeholder=" ...",
        )
        rest = len(texts) - number
        # Beside the row's number, and a line for how many are left out.
        if len(lines) + len(more) + (rest > 1) > TEXT_LINES - 1:
            return [*lines, f"and {rest} more"]
        lines += more
    return lines


def _picture(table: ArrowTable, columns: Sequence[str], row: int) -> Image.Image:
    """Return the images of a row side by side in one cell, boxes drawn."""
    names = [name for name in IMAGE_COLUMNS if name in columns]
    cell = Image.new("RGB", (CELL, CELL), "#f0f0f0")
    width = CELL // max(1, len(names))
    for number, name in enumerate(names):
        data = table.value(name, row).as_py() or b""
        image = open_image(data, table.source(row))
        picture = to_rgb(image)
        if "bboxes" in columns:
            _draw_boxes(picture, table, row)
        picture = upright(image, picture)
        picture.thumbnail((width - 2 * (len(names) > 1), CELL))
        left = number * width + (width - picture.width) // 2
        cell.paste(picture, (left, (CELL - picture.height) // 2))
    return cell


def _draw_boxes(picture: Image.Image, table: ArrowTable, row: int) -> None:
    draw = ImageDraw.Draw(picture)
    label = table.value("labels", row).as_py()
    boxes = table.value("bboxes", row).as_py()
    thickness = max(2, picture.width // 150)
    # The one that is meant comes last, over the others.
    for number in sorted(range(len(boxes)), key=lambda number: number == label):
        x, y, width, height = np.array(boxes[number])
        outline = BOX_COLOURS[number == label]
        draw.rectangle((x, y, x + width, y + height), outline=outline, width=thickness)
