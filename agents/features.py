"""A saved policy's normaliser and first layers as a stable-baselines3 features' extractor.

An exported zip carries this module within it, so it must name nothing else of this package.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class NormalisedFeatures(BaseFeaturesExtractor):
    """(x - mean) / scale, clipped to [-clip, clip], then linear layers each followed by the activation."""

    mean: Tensor
    scale: Tensor
    clip: Tensor

    def __init__(
        self, observation_space: spaces.Space[Any], widths: tuple[int, ...] = (), activation: type[nn.Module] = nn.Tanh
    ) -> None:
        size = spaces.flatdim(observation_space)
        super().__init__(observation_space, widths[-1] if widths else size)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("clip", torch.tensor(10.0))
        modules: list[nn.Module] = []
        for width in widths:
            modules += [nn.Linear(size, width), activation()]
            size = width
        self.network = nn.Sequential(*modules)

    def forward(self, observations: Tensor) -> Tensor:
        shifted = (observations - self.mean) / self.scale
        return self.network(torch.minimum(torch.maximum(shifted, -self.clip), self.clip))
