"""The dtype in which Hugging Face models compute."""

from torch import Tensor, nn

# Families that compute in the dtype of their parameters, as tests/builtin/test_precision.py shows.
FOLLOWING_FAMILIES = frozenset(
    {
        "beit",
        "bert",
        "camembert",
        "clip_vision_model",
        "deit",
        "dinov2",
        "distilbert",
        "electra",
        "roberta",
        "siglip_text_model",
        "siglip_vision_model",
        "vit",
        "xlm-roberta",
    }
)


def first_weight(model: nn.Module) -> Tensor:
    """Return a parameter of a model that is not an embedding table.

    Raises:
        StopIteration: If the model has neither linear nor convolutional layers.
    """
    return next(m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
