"""The picture panel that an evaluation gathers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from support.collating import word_pieces

from renaissance import Guess, PanelEntry, PanelImage, draw_panel, panel
from renaissance.engine.panel_images import PanelImages


def pixels_of(batch, row):
    return batch.pixel_values[row].numpy()


class Says:
    """An objective with these entries."""

    def __init__(self, *entries):
        self.entries = entries

    def panel(self, batch, output, texts):
        self.texts = texts
        return list(self.entries)


def test_objectives_take_turns_under_an_image_of_several_texts():
    objectives = {
        "mlm": Says(
            PanelEntry(1, ("a [MASK]", "dog: cat")),
            PanelEntry(0, ("one",)),
            PanelEntry(1, ("the [MASK]",)),
            PanelEntry(1, ("some [MASK]",)),
        ),
        "itm": Says(PanelEntry(1, ("match 0.9",)), PanelEntry(1, ("match 0.2",))),
    }
    pixels = torch.stack([torch.full((3, 4, 2), level, dtype=torch.uint8) for level in (10, 20)])
    batch = SimpleNamespace(
        has_images=True,
        pixel_values=pixels,
        input_ids=torch.tensor([[2, 5, 4, 3], [2, 6, 3, 0]]),
        objectives=dict.fromkeys(objectives),
    )
    network = SimpleNamespace(named_objectives=lambda: objectives)

    outputs = dict.fromkeys(objectives)
    shown = []
    PanelImages(network, word_pieces(whole_words=True), shown, 9, pixels_of).add(batch, outputs)
    first, second = shown

    # Decoded once, for all objectives.
    assert objectives["mlm"].texts == ["a [MASK]", "photo"]
    assert objectives["itm"].texts is objectives["mlm"].texts

    assert first.lines == ("one",)
    assert second.lines == (
        *("a [MASK]", "dog: cat", "match 0.9"),
        *("the [MASK]", "match 0.2"),
        "some [MASK]",
    )
    assert [image.image.getpixel((0, 0)) for image in (first, second)] == [(10,) * 3, (20,) * 3]
    assert first.image.size == (112, 224)  # enlarged, in its proportions


def test_as_many_false_pairs_as_true_ones():
    # The images of false pairs come last: they are those of other samples.
    groups = ["true"] * 6 + ["false"] * 3 + ["true"]
    entries = [
        PanelEntry(row, (f"pair {row}", Guess(group)), group) for row, group in enumerate(groups)
    ]
    objectives = {"mlm": Says(*(PanelEntry(row, ("a [MASK]",)) for row in range(6)))}
    objectives["itm"] = Says(*entries)
    batch = SimpleNamespace(
        has_images=True,
        pixel_values=torch.zeros(10, 3, 4, 4, dtype=torch.uint8),
        input_ids=torch.tensor([[2, 5, 4, 3]]),
        objectives=dict.fromkeys(objectives),
    )
    network = SimpleNamespace(named_objectives=lambda: objectives)
    shown = []
    panel = PanelImages(network, word_pieces(whole_words=True), shown, 6, pixels_of)
    panel.add(batch, dict.fromkeys(objectives))
    assert len(shown) == 6
    found = [str(line) for image in shown for line in image.lines if isinstance(line, Guess)]
    assert (found.count("true"), found.count("false")) == (3, 3)
    # There are enough.
    panel.add(batch, dict.fromkeys(objectives))
    assert len(shown) == 6


def colours_below(sheet, column):
    """Return the colours of the text below a picture, by the height at which each begins."""
    cell = np.asarray(sheet)[224 + 8 :, 280 * column : 280 * (column + 1)].astype(int)
    spread = cell.max(2) - cell.min(2)
    return {
        "red": (spread > 80) & (cell.argmax(2) == 0),
        "green": (spread > 60) & (cell.argmax(2) == 1),
        "black": cell.max(2) < 60,
    }


def test_guesses_are_coloured_and_captions_are_not():
    picture = Image.new("RGB", (8, 8))
    lines = ("a caption", Guess("right", is_right=True)), ("more", Guess("wrong", is_right=False))
    sheet = draw_panel([PanelImage(picture, both) for both in lines])
    for column, colour in enumerate(("green", "red")):
        found = colours_below(sheet, column)
        assert {name for name, where in found.items() if where.any()} == {"black", colour}
        # The caption is above the guess.
        above, below = (np.flatnonzero(found[name].any(1)) for name in ("black", colour))
        assert above.max() < below.min()


@pytest.mark.parametrize(
    "line",
    [
        "\u732b\u304c" * 40,
        "w" * 200,
        "\u0643\u0644\u0628 " * 30,
        "\U0001f408" * 50,
        "a b " * 300,
        "",
    ],
)
def test_no_text_leaves_its_column(line):
    sheet = draw_panel([PanelImage(Image.new("RGB", (8, 8)), (line,))] * 2)
    pixels = np.asarray(sheet)
    white = (pixels == 255).all(2)
    # The margins of both columns, and what is below the last line.
    # A letter may begin a pixel early.
    assert white[:, 280 - 7 : 280 + 7].all()
    assert white[-8:].all()
    assert (~white[232:]).any() == bool(line)


def test_what_the_font_lacks_is_written_as_its_number(monkeypatch):
    panel._printable.cache_clear()
    # It knows ASCII alone.
    monkeypatch.setattr(panel, "_font", lambda: ImageFont.load_default(12))
    assert list(panel._parts("a caf\u00e9 \u732b \U0001f408")) == [r"a caf\u00e9 \u732b \U0001f408"]
    panel._printable.cache_clear()
