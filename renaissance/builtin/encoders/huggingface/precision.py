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
    """Return a parameter of a model, one that is not an embedding table if there is any."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            return module.weight
    # Some families, such as I-BERT, have layers of their own, and none of these follows its dtype.
    return next(model.parameters())
