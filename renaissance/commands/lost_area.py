"""Which share of the images the transform cuts off, from a sample of the images."""

import numpy as np

from renaissance.data.sample_reader import SampleReader
from renaissance.errors import DataError

NUM_SAMPLES = 64


def lost_area_lines(reader: SampleReader, name: str) -> list[str]:
    """Return a line for the user; none if the transform does not say, or there are no images.

    Args:
        reader: Reads the training samples.
        name: Name of the image transform.
    """
    size = len(reader.datasets)
    count = min(NUM_SAMPLES, size)
    losses: list[float] = []
    # Spread evenly over the data.
    for index in (sample * size // count for sample in range(count)):
        try:
            images = reader.sample(0, index).images
        # The run itself skips or reports a bad record.
        except DataError:
            continue
        for image in images:
            lost = reader.transform.lost_area(image.width, image.height)
            if lost is None:
                return []
            losses.append(lost)
    if not losses:
        return []
    sampled = f"{len(losses)} sampled image{'s' if len(losses) > 1 else ''}"
    if max(losses) == 0:
        return [f"images: '{name}' shows the whole of {sampled}"]
    return [
        f"images: '{name}' cuts off {np.mean(losses):.0%} of the area of {sampled} on average, "
        f"{max(losses):.0%} at most; 'stretch' and 'pixelbert' keep all"
    ]
