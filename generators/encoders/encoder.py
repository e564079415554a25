"""An encoder: images in, codes in W+ out, the latent average added."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.encoders.networks import EncoderNetwork
from generators.errors import ArgumentError
from generators.generator import Generator
from generators.latents import W_PLUS


class Encoder(nn.Module):
    """A pretrained encoder: frozen, in eval mode. `encoder(images)` gives codes in W+.

    An image's codes do not depend on its neighbours in the batch.
    """

    digest: str = ""
    """SHA-256 of the file it was read from."""
    source: str = ""
    """The file, as messages show it."""
    iterations: int = 1
    """Passes over each image."""

    def __init__(
        self, kind: str, network: EncoderNetwork, latent_avg: Tensor, input_size: tuple[int, int] = (256, 256)
    ) -> None:
        """Make an encoder.

        Args:
            kind: as published, such as `e4e`.
            network: makes codes relative to the latent average; of its rows, the first `len(latent_avg)` are used.
            latent_avg: `[num_ws, w_dim]`.
            input_size: height and width that images are resized to.
        """
        super().__init__()
        self.kind, self.input_size = kind, input_size
        self.num_ws, self.w_dim = latent_avg.shape
        self.resolution = 2 ** (self.num_ws // 2 + 1)
        """Of the generator that it was trained for."""
        self.network = network
        self.latent_avg: Tensor
        self.register_buffer("latent_avg", latent_avg)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return codes `[N, num_ws, w_dim]` for images `[N, 3, h, w]` in [-1, 1] of any size.

        Images of another size than `input_size` are resized bilinearly with antialiasing, as the published code does,
        but without rounding to 8 bit; their proportions are not kept.

        Raises ValueError for another layout.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images [N, 3, h, w] in [-1, 1], got {list(images.shape)}")
        return self.codes(_resized(images, self.input_size))

    def codes(self, images: Tensor) -> Tensor:
        """Return codes for images `[N, 3, *input_size]`."""
        return self.latent_avg + cast(Tensor, self.network(images))[:, : self.num_ws]

    def check_fits(self, generator: Generator) -> None:
        """Raise ArgumentError unless these codes are codes of a generator, by shape.

        Whether both were trained on the same pictures is not known.
        """
        if generator.spaces[0] != W_PLUS:
            raise ArgumentError(
                f"{self} makes codes in {W_PLUS}, and the generator of the family {generator.family} has "
                f"{generator.spaces[0]}: published encoders work with StyleGAN2 only"
            )
        ours = self.resolution, self.num_ws, self.w_dim
        theirs = generator.resolution, generator.num_ws, generator.w_dim
        if ours != theirs:
            raise ArgumentError(
                f"{self} was trained for a generator of {_sizes(*ours)}, and this one has {_sizes(*theirs)}: give the "
                "encoder of this generator"
            )

    def __str__(self) -> str:
        return f"encoder {self.source} ({self.kind})" if self.source else f"{self.kind} encoder"


class ReStyle(Encoder):
    """An encoder that corrects its own inversion several times (Alaluf et al. 2021).

    Each pass sees the image next to its present inversion, at first the average image, and adds to its codes.
    """

    def __init__(
        self,
        kind: str,
        network: EncoderNetwork,
        latent_avg: Tensor,
        input_size: tuple[int, int],
        *,
        decoder: Generator,
        iterations: int = 5,
    ) -> None:
        super().__init__(kind, network, latent_avg, input_size)
        self.decoder, self.iterations = decoder, iterations

    def codes(self, images: Tensor) -> Tensor:
        """Return codes for images `[N, 3, *input_size]` after all passes."""
        codes = self.latent_avg.expand(len(images), -1, -1)
        inversion = self._seen(self.latent_avg[None]).expand(len(images), -1, -1, -1)
        for iteration in range(self.iterations):
            if iteration:
                inversion = self._seen(codes)
            codes = codes + self.network(torch.cat([images, inversion], dim=1))[:, : self.num_ws]
        return codes

    def _seen(self, codes: Tensor) -> Tensor:
        """Return the images of codes as the network sees them: averaged to 256 px, and of cars the middle rows."""
        height, width = self.input_size
        square = F.adaptive_avg_pool2d(self.decoder.synthesize(codes), width)
        margin = (width - height) // 2
        return square[:, :, margin : margin + height]


def _sizes(resolution: int, num_ws: int, w_dim: int) -> str:
    return f"{resolution} px, num_ws {num_ws} and w_dim {w_dim}"


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
