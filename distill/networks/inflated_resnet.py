"""A 3D ResNet of bottlenecks as one gets it by inflating a 2D one: the third axis of a volume is what time is in a video.

Owns: InflatedResNet, whose tensors bear the names and shapes of Merlin's image encoder. Does not own: weights, how a volume
reaches it (solid.py). Strides are no tensors: they are those of Carreira and Zisserman's I3D for ResNets as Merlin's authors use it
(github.com/StanfordMIMI/Merlin, MIT): the stem keeps the third axis, the pool behind it and the first blocks of stages 2 to 4 halve it.
"""

from __future__ import annotations

from torch import Tensor, nn

DEPTHS = (3, 8, 36, 3)  # blocks a stage of ResNet-152 (He et al. 2016)
WIDTH = 64
GROWTH = 4  # channels behind a bottleneck by those inside


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3, 1x1x1 with a shortcut; the middle convolution has the stride."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = GROWTH * width
        self.conv1, self.bn1 = nn.Conv3d(inputs, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2, self.bn2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, outputs, 1, bias=False), nn.BatchNorm3d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(maps)).relu()
        inner = self.bn2(self.conv2(inner)).relu()
        return (self.bn3(self.conv3(inner)) + self.downsample(maps)).relu()


class InflatedResNet(nn.Module):
    """Volumes (B, 1, X, Y, Z) to features (B, D), D = 32 * width: one channel, thrice, as the 2D network had three."""

    def __init__(self, depths: tuple[int, int, int, int] = DEPTHS, width: int = WIDTH) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False), nn.BatchNorm3d(width)
        self.maxpool = nn.MaxPool3d(3, 2, padding=1)
        inputs = width
        for stage, depth in enumerate(depths):
            inner = width * 2 ** stage
            blocks = [Bottleneck(GROWTH * inner if place else inputs, inner, 2 if stage and not place else 1) for place in range(depth)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = GROWTH * inner

    def forward(self, volumes: Tensor) -> Tensor:
        maps = volumes.permute(0, 1, 4, 2, 3).expand(-1, 3, -1, -1, -1)
        maps = self.maxpool(self.bn1(self.conv1(maps)).relu())
        for stage in range(1, 5):
            maps = self.get_submodule(f"layer{stage}")(maps)
        return maps.mean((2, 3, 4))
