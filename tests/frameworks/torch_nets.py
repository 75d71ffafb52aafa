"""Small networks of the shapes that people export from PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class Basic(nn.Module):
    """ResNet's block of two convolutions."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            projection = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + self.downsample(x))


class ResNet18(nn.Module):
    """He et al. 2016, with torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Basic(64, 64, 1), Basic(64, 64, 1))
        self.layer2 = nn.Sequential(Basic(64, 128, 2), Basic(128, 128, 1))
        self.layer3 = nn.Sequential(Basic(128, 256, 2), Basic(256, 256, 1))
        self.layer4 = nn.Sequential(Basic(256, 512, 2), Basic(512, 512, 1))
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def normed(before: int, after: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU6())


class Inverted(nn.Module):
    """MobileNet's inverted residual."""

    def __init__(self, before: int, after: int, stride: int, times: int) -> None:
        super().__init__()
        wide = before * times
        first = [normed(before, wide, 1)] if times > 1 else []
        last = [nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after)]
        self.conv = nn.Sequential(*first, normed(wide, wide, 3, stride, wide), *last)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, with torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [normed(3, 32, 3, 2)]
        width = 32
        rows = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)
        for times, after, count, stride in (*rows, (6, 320, 1, 1)):
            for k in range(count):
                layers.append(Inverted(width, after, stride if k == 0 else 1, times))
                width = after
        self.features = nn.Sequential(*layers, normed(width, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Encoder(nn.Module):
    """One of PyTorch's own transformer layers."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 64)
        self.layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)))


class Decoder(nn.Module):
    """A layer with two attentions, and a third whose keys have another width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 64)
        self.layer = nn.TransformerDecoderLayer(64, 4, 128, batch_first=True)
        self.memory = nn.Linear(16, 48)
        self.cross = nn.MultiheadAttention(64, 4, kdim=48, vdim=48, batch_first=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        y, keys = self.layer(y, 2 * y), self.memory(x)
        return self.head(y + self.cross(y, keys, keys, need_weights=False)[0])


class Attention(nn.Module):
    """Heads kept in an attribute, as most repositories write it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.norm = nn.LayerNorm(64)
        self.qkv = nn.Linear(64, 192)
        self.proj = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, 16)).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].transpose(-2, -1) / 4).softmax(-1)
        return x + self.proj((weights @ qkv[2]).transpose(1, 2).flatten(2))


class Mixed(nn.Module):
    """Grouped and transposed convolutions, GroupNorm, PReLU, and a norm behind a Linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding=1)
        self.g = nn.GroupNorm(8, 32)
        self.b = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.t = nn.ConvTranspose2d(32, 16, 2, 2)
        self.n = nn.BatchNorm2d(16)
        self.p = nn.PReLU(16)
        self.f = nn.Linear(16 * 64, 24)
        self.n1 = nn.BatchNorm1d(24)
        self.o = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.b(relu(self.g(self.a(x)))))
        return self.o(self.n1(self.f(self.p(self.n(self.t(x))).flatten(1))))


class Recurrent(nn.Module):
    """An LSTM, whose gates ONNX orders otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 32, batch_first=True)
        self.out = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0])


def trained(module: nn.Module) -> nn.Module:
    """The module with statistics and biases as training leaves them: no two alike."""
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith(("bias", "running_mean")):
                tensor.normal_(0, 0.2)
            elif name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
                tensor.uniform_(0.5, 1.5)
    return module
