"""A contact sheet: a grid of a dataset's images with their texts and labels."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from renaissance.data.arrow import ArrowTable
from renaissance.data.images import decoded, to_rgb, upright
from renaissance.data.inspect import IMAGE_COLUMNS, row_texts, schema_of
from renaissance.data.open_image import COMMAND_LIMITS, ImageLimits, open_image

COLUMNS = 4
CELL = 220
TEXT_LINES = 9
LINE = 14
MARGIN = 8
FONT_SIZE = 12
CHARACTERS = 34
# Colours of the row index, and of the texts.
INK = ("#707070", "black")
# Colours of the boxes, and of the box that is the target.
BOX_COLOURS = ("#9a9a9a", "#e02020")


def draw_contact_sheet(
    path: Path,
    num_rows: int = 12,
    labels: Sequence[str] = (),
    limits: ImageLimits = COMMAND_LIMITS,
) -> Image.Image:
    """Draw rows spread evenly over a file, with texts, answers or labels, and boxes.

    Args:
        path: The Arrow file.
        num_rows: How many rows to draw.
        labels: Names of the classes, shown instead of their indices.
        limits: Larger images are refused.

    Raises:
        DataError: If the file or an image cannot be read.
    """
    schema = schema_of(path)
    table = ArrowTable([path], tuple(schema))
    names = list(schema)
    return draw_sheet(
        [
            (
                f"row {row}",
                row_labels(table, names, row, labels),
                _images(table, names, row, limits),
            )
            for row in rows_to_draw(len(table), num_rows)
        ]
    )


def rows_to_draw(num_rows: int, num_drawn: int = 12) -> list[int]:
    """Return rows spread evenly over a file."""
    count = min(num_drawn, num_rows)
    return [cell * num_rows // count for cell in range(count)]


def draw_sheet(cells: Sequence[tuple[str, Sequence[str], Image.Image]]) -> Image.Image:
    """Draw cells in a grid.

    Args:
        cells: Of each cell: where its row is, its texts, and a picture of `CELL` x `CELL` pixels.
    """
    texts = [[where, *_lines(lines)] for where, lines, _ in cells]
    height = CELL + max(map(len, texts)) * LINE + 2 * MARGIN
    shape = (COLUMNS * (CELL + MARGIN) + MARGIN, -(-len(cells) // COLUMNS) * height + MARGIN)
    sheet = Image.new("RGB", shape, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for cell, (lines, (_, _, picture)) in enumerate(zip(texts, cells, strict=True)):
        left = MARGIN + cell % COLUMNS * (CELL + MARGIN)
        top = MARGIN + cell // COLUMNS * height
        sheet.paste(picture, (left, top))
        for index, line in enumerate(lines):
            draw.text((left, top + CELL + 2 + index * LINE), line, INK[index > 0], font)
    return sheet


def row_labels(
    table: ArrowTable, columns: Sequence[str], row: int, names: Sequence[str] = ()
) -> list[str]:
    """Return the texts of a row, each with its label or answers if the file has them.

    Args:
        table: The file.
        columns: Its columns.
        row: Index of the row.
        names: Names of the classes; labels without a name are shown as numbers.
    """
    texts = row_texts(table, columns, row)

    def values(column: str) -> list[Any]:
        value = table.value(column, row).as_py() if column in columns else None
        return value if isinstance(value, list) else []

    if "answer_scores" in columns:
        rows = zip(texts, values("answers"), values("answer_scores"), strict=False)
        answered = [
            f"{text} {', '.join(f'{a} {s:.1f}' for a, s in zip(answers, scores, strict=True))}"
            for text, answers, scores in rows
        ]
        return answered or texts
    if "answers" in columns:
        return [f"{text} [{a}]" for text, a in zip(texts, values("answers"), strict=True)]
    if "labels" in columns and "bboxes" not in columns:
        shown = [names[n] if 0 <= n < len(names) else n for n in values("labels")]
        return [f"{text} [{label}]" for text, label in zip(texts, shown, strict=True)]
    return texts


def _lines(texts: Sequence[str]) -> list[str]:
    """Wrap the texts to lines; if there are too many, the last says how many texts are left out."""
    lines: list[str] = []
    for index, text in enumerate(texts):
        more = textwrap.wrap(
            text,
            CHARACTERS,
            subsequent_indent="    ",
            max_lines=TEXT_LINES - 2,
            placeholder=" ...",
        )
        rest = len(texts) - index
        # One line is taken by the row index, one by the number of texts left out.
        if len(lines) + len(more) + (rest > 1) > TEXT_LINES - 1:
            return [*lines, f"and {rest} more"]
        lines += more
    return lines


def _images(
    table: ArrowTable, columns: Sequence[str], row: int, limits: ImageLimits
) -> Image.Image:
    """Return the images of a row side by side in one cell, with their boxes."""
    names = [name for name in IMAGE_COLUMNS if name in columns]
    cell = Image.new("RGB", (CELL, CELL), "#f0f0f0")
    width = CELL // max(1, len(names))
    for index, name in enumerate(names):
        data = table.value(name, row).as_py() or b""
        source = table.source(row)
        image = open_image(data, source)
        picture = decoded(image, limits, source, to_rgb)
        if "bboxes" in columns:
            _draw_boxes(picture, table, row)
        picture = upright(image, picture)
        picture.thumbnail((width - 2 * (len(names) > 1), CELL))
        left = index * width + (width - picture.width) // 2
        cell.paste(picture, (left, (CELL - picture.height) // 2))
    return cell


def _draw_boxes(picture: Image.Image, table: ArrowTable, row: int) -> None:
    draw = ImageDraw.Draw(picture)
    target = table.value("labels", row).as_py()
    boxes = table.value("bboxes", row).as_py()
    thickness = max(2, picture.width // 150)
    # The target is drawn last, over the others.
    for index in sorted(range(len(boxes)), key=lambda index: index == target):
        x, y, width, height = np.array(boxes[index])
        outline = BOX_COLOURS[index == target]
        draw.rectangle((x, y, x + width, y + height), outline=outline, width=thickness)
