"""An image transform as an image processor of transformers."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

from renaissance.contracts.transform import Channels, Transform
from renaissance.data.preprocessor import FILE

# Largest mean difference of pixels, in levels of 255, that rounding and cropping may explain.
MAX_PIXEL_DIFFERENCE = 2.0
SIDE_RATIO = (4, 3)


def write_image_processor(
    config: Mapping[str, object], mean: Channels, std: Channels, folder: Path
) -> None:
    """Write what a transform's `image_processor` returned, with its normalization."""
    content = {
        **config,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n")


def pixel_difference(
    transform: Transform, mean: Channels, std: Channels, folder: Path, size: int
) -> float:
    """Return the mean difference of a transform from the image processor of a folder, in levels.

    Args:
        transform: The transform, in evaluation.
        mean: The mean of each channel, from 0 to 1.
        std: The standard deviation of each channel.
        folder: The folder of the image processor.
        size: Side of the transform's images, in pixels.
    """
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    picture = _picture(size)
    ours = transform.pixels(picture, np.random.default_rng())
    theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
    means, stds = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    if theirs.shape != ours.shape:
        return float("inf")
    levels = (theirs * stds + means) * 255 - torch.from_numpy(ours)
    return float(levels.abs().mean())


def _picture(side: int) -> Image.Image:
    """Return a smooth picture that is wider than high."""
    width, height = (side * ratio // 2 for ratio in SIDE_RATIO)
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [np.sin(rows / 9), np.cos(columns / 11), np.sin((rows + columns) / 17)]
    return Image.fromarray(np.uint8(127.5 + 127.5 * np.stack(channels, axis=-1)))
