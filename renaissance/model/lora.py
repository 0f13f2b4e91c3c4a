"""Low-rank adaptation of an encoder: `adapt = { type = "lora" }`.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022; by the library peft.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from renaissance.errors import SpecError
from renaissance.spec.choice import Lora

# In the names that peft gives to tensors.
BASE, LORA = ".base_layer.", ".lora_"


def adapt(name: str, encoder: nn.Module, options: Lora) -> None:
    """Freeze an encoder, and add trained low-rank matrices to its linear layers.

    Args:
        name: Its table in the spec.
        encoder: The encoder, changed in place.
        options: Of the adaptation.

    Raises:
        SpecError: If peft is not installed, or the encoder has no linear layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise SpecError(
            f"model.{name}.adapt: needs the package peft, which is not installed ({error}); "
            "install it: pip install peft"
        ) from error
    # Subclasses, such as the output of torch's own attention, are not called as modules.
    targets = [path for path, module in encoder.named_modules() if type(module) is nn.Linear]
    if not targets:
        raise SpecError(
            f"model.{name}.adapt: the encoder has no linear layers, which LoRA adapts; remove the "
            "key, or choose another encoder, such as a transformer"
        )
    encoder.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=targets,
        ),
        encoder,
    )


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names of tensors by those that they have without adapters, which are left out."""
    return {name.replace(BASE, "."): name for name in names if LORA not in name}


def merged(tensors: Mapping[str, Tensor], model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors as they would be without adapters, what they learned added.

    Args:
        tensors: By their names in the network, such as "model.text_encoder. ...".
        model: The table `[model]` of the run that saved them.
    """
    result = {plain: tensors[name] for plain, name in plain_names(tensors).items()}
    for name, down in tensors.items():
        layer, is_down, _ = name.partition(f"{LORA}A.default.weight")
        if is_down:
            options = model[name.split(".")[1]]["adapt"]
            up = tensors[f"{layer}{LORA}B.default.weight"]
            result[f"{layer}.weight"] = result[f"{layer}.weight"] + (
                options["alpha"] / options["rank"] * (up @ down)
            )
    return result


def merge_adapters(module: nn.Module) -> None:
    """Add what was learned to the adapted layers, which are then as they were before."""
    for path, layer in list(module.named_modules()):
        # Without asking peft, which a model without adapters does not need.
        if hasattr(layer, "merge") and hasattr(layer, "get_base_layer"):
            layer.merge()
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, layer.get_base_layer())
