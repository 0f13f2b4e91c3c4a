"""MLP-Mixer in plain PyTorch (Tolstikhin et al., "MLP-Mixer", NeurIPS 2021)."""

from torch import Tensor, nn


class Mixer(nn.Module):
    """Alternates between mixing patches and mixing channels.

    Args:
        num_patches: Number of patches per image.
        patch_size: Side of a patch, pixels.
        hidden_size: Width of the patch states.
        num_layers: Number of layers.
        dropout: Dropout after each mixing step.
    """

    def __init__(
        self, num_patches: int, patch_size: int, hidden_size: int, num_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, hidden_size, kernel_size=patch_size, stride=patch_size)
        self.layers = nn.ModuleList(
            MixerLayer(num_patches, hidden_size, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return patch states: (images, 3, height, width) to (images, patches, hidden)."""
        states = self.stem(pixel_values).flatten(2).transpose(1, 2)
        for layer in self.layers:
            states = layer(states)
        normalized: Tensor = self.norm(states)
        return normalized


class MixerLayer(nn.Module):
    """One step of mixing patches, one of mixing channels."""

    def __init__(self, num_patches: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.patch_norm = nn.LayerNorm(hidden_size)
        self.patch_mlp = mlp(num_patches, hidden_size // 2, dropout)
        self.channel_norm = nn.LayerNorm(hidden_size)
        self.channel_mlp = mlp(hidden_size, 4 * hidden_size, dropout)

    def forward(self, states: Tensor) -> Tensor:
        """Mix: (images, patches, hidden) in and out."""
        mixed = self.patch_mlp(self.patch_norm(states).transpose(1, 2)).transpose(1, 2)
        states = states + mixed
        output: Tensor = states + self.channel_mlp(self.channel_norm(states))
        return output


def mlp(size: int, intermediate_size: int, dropout: float) -> nn.Module:
    """Return a two-layer network of the same size in and out."""
    return nn.Sequential(
        nn.Linear(size, intermediate_size),
        nn.GELU(),
        nn.Linear(intermediate_size, size),
        nn.Dropout(dropout),
    )
