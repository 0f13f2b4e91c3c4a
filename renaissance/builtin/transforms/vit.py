"""ViT's normalization with a centre crop."""

from renaissance.builtin.transforms.square import CentreTransform


class ViT(CentreTransform):
    """Shorter side to the image size, centre crop; normalized to [-1, 1] as in ViT.

    ViT's image processor in transformers (Dosovitskiy et al., 2021) does not crop but stretches the
    whole picture; that is `stretch`.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
