"""The usual preprocessing for ImageNet."""

from renaissance.builtin.transforms.square import CentreTransform


class ImageNet(CentreTransform):
    """Shorter side to the image size, centre crop; normalized with ImageNet's statistics."""

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
