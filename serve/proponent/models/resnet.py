"""The CIFAR variant of ResNet (He et al. 2016, section 4.2): three stages of 16, 32 and 64 channels."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from proponent.models.variants import activation as new_activation

_STAGES = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a shortcut; ``[B, C, H, W]`` to ``[B, D, H/s, W/s]``."""

    def __init__(self, channels: int, out_channels: int, stride: int, activation: str) -> None:
        """Build the block; a change of shape makes the shortcut a strided 1 x 1 convolution."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = new_activation(activation)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = new_activation(activation)
        self.shortcut = _shortcut(channels, out_channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the block."""
        hidden = self.act1(self.bn1(self.conv1(inputs)))
        outputs: Tensor = self.act2(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))
        return outputs


def _shortcut(channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False),
            bn=nn.BatchNorm2d(out_channels),
        )
    )


def _stage(channels: int, out_channels: int, blocks: int, activation: str) -> nn.Sequential:
    stride = 1 if channels == out_channels else 2
    first = BasicBlock(channels, out_channels, stride, activation)
    rest = [BasicBlock(out_channels, out_channels, 1, activation) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def resnet20(classes: int, activation: str = "relu") -> nn.Sequential:
    """Build ResNet-20: inputs ``[B, 3, 32, 32]``, logits ``[B, classes]``.

    Args:
        classes: Number of classes.
        activation: ``"relu"`` as published, or the smooth ``"silu"``.

    Raises:
        InvalidInputError: If the activation is unknown.
    """
    narrow, middle, wide = _STAGES
    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, narrow, 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(narrow),
            act=new_activation(activation),
            stage1=_stage(narrow, narrow, 3, activation),
            stage2=_stage(narrow, middle, 3, activation),
            stage3=_stage(middle, wide, 3, activation),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(wide, classes),
        )
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
