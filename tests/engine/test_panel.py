"""The picture panel that an evaluation gathers."""

from types import SimpleNamespace

import torch
from support.collating import word_pieces

from renaissance import PanelEntry
from renaissance.engine import evaluate


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
        pixel_values=pixels,
        input_ids=torch.tensor([[2, 5, 4, 3], [2, 6, 3, 0]]),
        objectives=dict.fromkeys(objectives),
    )
    network = SimpleNamespace(named_objectives=lambda: objectives)

    outputs = dict.fromkeys(objectives)
    first, second = evaluate._panel(network, word_pieces(whole_words=True), batch, outputs)

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
