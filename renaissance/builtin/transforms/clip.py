"""CLIP's preprocessing."""

from renaissance.builtin.transforms.square import CentreTransform


class CLIP(CentreTransform):
    """Shorter side to the image size, centre crop; normalized as in CLIP (Radford et al., 2021)."""

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)
