"""Draw the two architectures: python docs/draw_architectures.py docs/images.

Both pictures stand on a light card of their own, so they are legible on dark pages too.
"""

import sys
from html import escape
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT = 960, 400
TEXT_ROW, IMAGE_ROW = 112, 292
MIDDLE = (TEXT_ROW + IMAGE_ROW) // 2
# Fill and line of each role; the same colours in both pictures.
COLOURS = {
    "text": ("#dbeafe", "#2563eb"),
    "image": ("#dcfce7", "#15803d"),
    "fusion": ("#ede9fe", "#6d28d9"),
    "objective": ("#fef3c7", "#b45309"),
}
INK, FAINT = "#1f2937", "#4b5563"
STYLE = f"""
  text {{ font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif;
         font-size: 15px; fill: {INK}; text-anchor: middle; }}
  .key {{ font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace;
         font-size: 12px; fill: {FAINT}; }}
  .chip {{ font-size: 13px; }}
  .note {{ font-size: 13px; fill: {FAINT}; }}
  .arrow {{ fill: none; stroke: {FAINT}; stroke-width: 1.6; marker-end: url(#head); }}
"""


class Box(NamedTuple):
    """A box by its centre, with a title and keys of the run spec."""

    x: int
    y: int
    width: int
    height: int
    role: str
    title: str
    keys: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[int, int]:
        """Where an arrow enters."""
        return self.x - self.width // 2, self.y

    @property
    def right(self) -> tuple[int, int]:
        """Where an arrow leaves."""
        return self.x + self.width // 2, self.y

    def draw(self) -> str:
        """Return the box as SVG."""
        fill, line = COLOURS[self.role]
        shape = (
            f'<rect x="{self.x - self.width // 2}" y="{self.y - self.height // 2}" '
            f'width="{self.width}" height="{self.height}" rx="8" fill="{fill}" stroke="{line}"/>'
        )
        # Titles of several lines, and the keys below, are centred as one block.
        lines = [(line, "") for line in self.title.split("\n")]
        lines += [(key, "key") for key in self.keys]
        top = self.y + 5 - 10 * (len(lines) - 1)
        return shape + "".join(
            label(self.x, top + 20 * i, line, css) for i, (line, css) in enumerate(lines)
        )


def label(x: int, y: int, text: str, css: str = "") -> str:
    """Return a line of text, centred at x."""
    return f'<text x="{x}" y="{y}" class="{css}">{escape(text)}</text>'


def arrow(*points: tuple[int, int]) -> str:
    """Return an arrow through some points."""
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path class="arrow" d="M{path}"/>'


def sentence() -> str:
    """Return a few words, one of them masked, as the text that goes in."""
    fill, line = COLOURS["text"]
    # Left edge, top edge, width, and the word; the masked one has none.
    words = [(36, -33, 24, "a"), (64, -33, 40, "dog"), (108, -33, 30, "on")]
    words += [(46, -6, 24, "a"), (74, -6, 54, "")]
    chips = "".join(
        f'<rect x="{x}" y="{TEXT_ROW + y}" width="{width}" height="23" rx="4" '
        f'fill="{fill if word else line}" stroke="{line}"/>'
        + label(x + width // 2, TEXT_ROW + y + 16, word, "chip")
        for x, y, width, word in words
    )
    return chips + label(85, TEXT_ROW + 38, "text", "note")


def picture() -> str:
    """Return a small picture cut into patches, as the image that goes in."""
    fill, line = COLOURS["image"]
    patches = "".join(
        f'<rect x="{49 + 25 * column}" y="{IMAGE_ROW - 46 + 25 * row}" width="22" height="22" '
        f'rx="2" fill="{line if (row, column) in ((1, 1), (2, 0), (2, 1)) else fill}" '
        f'stroke="{line}"/>'
        for row in range(3)
        for column in range(3)
    )
    return patches + label(85, IMAGE_ROW + 50, "image", "note")


def outputs(start: Box) -> str:
    """Return the end of both architectures: the pooler and the objectives."""
    pooler = Box(690, IMAGE_ROW, 120, 64, "fusion", "Pooler", ("[model.pooler]",))
    words = Box(860, TEXT_ROW, 150, 64, "objective", "Masked words", ("mlm",))
    pairs = Box(
        860,
        IMAGE_ROW,
        150,
        120,
        "objective",
        "Pairs",
        ("itm, retrieval", "vqa, nlvr2", "snli-ve", "refcoco"),
    )
    edge = start.right[0]
    return "".join(
        [
            *(box.draw() for box in (pooler, words, pairs)),
            arrow((edge, TEXT_ROW), words.left),
            arrow((edge, IMAGE_ROW), pooler.left),
            arrow(pooler.right, pairs.left),
            label((edge + words.left[0]) // 2, TEXT_ROW - 12, "fused text tokens", "note"),
            label(860, 378, "[[objectives]]", "key"),
            label(860, 46, "one loss, one backward", "note"),
        ]
    )


def two_tower() -> str:
    """Return the picture of a two-tower model."""
    text = Box(250, TEXT_ROW, 170, 84, "text", "Text encoder", ("[model.text_encoder]",))
    image = Box(250, IMAGE_ROW, 170, 84, "image", "Image encoder", ("[model.image_encoder]",))
    contrast = Box(250, MIDDLE, 170, 48, "objective", "Contrast", ("itc",))
    projections = [
        Box(404, TEXT_ROW, 84, 44, "fusion", "project"),
        Box(404, IMAGE_ROW, 84, 44, "fusion", "project"),
    ]
    fusion = Box(
        540,
        MIDDLE,
        140,
        264,
        "fusion",
        "Fusion",
        ("[model.fusion]", "", "co-attention", "cross-attention", "lxmert", "merged-attention"),
    )
    return svg(
        "A two-tower model",
        sentence(),
        picture(),
        *(box.draw() for box in (text, image, contrast, *projections, fusion)),
        arrow((143, TEXT_ROW), text.left),
        arrow((143, IMAGE_ROW), image.left),
        arrow((250, TEXT_ROW + 42), (250, MIDDLE - 24)),
        arrow((250, IMAGE_ROW - 42), (250, MIDDLE + 24)),
        arrow(text.right, projections[0].left),
        arrow(image.right, projections[1].left),
        arrow(projections[0].right, (470, TEXT_ROW)),
        arrow(projections[1].right, (470, IMAGE_ROW)),
        outputs(fusion),
        label(250, 46, "each text and image once", "note"),
        label(540, 46, "all pairs in one call", "note"),
    )


def one_tower() -> str:
    """Return the picture of a one-tower model."""
    text = Box(244, TEXT_ROW, 150, 64, "text", "Text\nembeddings")
    image = Box(244, IMAGE_ROW, 150, 64, "image", "Image\nembeddings")
    stack = Box(456, MIDDLE, 170, 264, "fusion", "One stack\nover text tokens\nand image tokens")
    contrast = Box(860, MIDDLE - 12, 150, 44, "objective", "Contrast", ("itc",))
    whole = (
        f'<rect x="156" y="58" width="398" height="308" rx="10" fill="none" stroke="{FAINT}" '
        f'stroke-dasharray="5 4"/>' + label(244, MIDDLE + 4, "[model.encoder]", "key")
    )
    return svg(
        "A one-tower model",
        sentence(),
        picture(),
        whole,
        *(box.draw() for box in (text, image, stack, contrast)),
        arrow((143, TEXT_ROW), text.left),
        arrow((143, IMAGE_ROW), image.left),
        arrow(text.right, (stack.left[0], TEXT_ROW)),
        arrow(image.right, (stack.left[0], IMAGE_ROW)),
        arrow((stack.right[0], contrast.y), contrast.left),
        label((stack.right[0] + contrast.left[0]) // 2, contrast.y - 10, "each by itself", "note"),
        outputs(stack),
        label(244, 46, "each text and image once", "note"),
        label(456, 46, "all pairs in one call", "note"),
    )


def svg(title: str, *parts: str) -> str:
    """Return a whole picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img"><title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{FAINT}"/></marker>'
        "</defs>\n"
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="14" fill="#ffffff" '
        'stroke="#d1d5db"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


PICTURES = {"two-tower.svg": two_tower, "one-tower.svg": one_tower}


def main(folder: Path) -> None:
    """Write both pictures into a folder."""
    for name, draw in PICTURES.items():
        (folder / name).write_text(draw())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
