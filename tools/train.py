"""Train the small networks on Fashion-MNIST that the accuracy tables are about, and export them to ONNX.

    python -m tools.train DATA OUT [--network vgg] [--epochs 6] [--seed 0]

Needs torch and onnxscript.  DATA is a folder with the four files of Fashion-MNIST, *-ubyte.gz, as Debian's
package dataset-fashion-mnist has them.  Images of the shipped sample's test part are left out of training,
and the sample's labels are used once, at the end, to say what the exported network gets right.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tools.accuracy import MODELS, top1

SAMPLE = MODELS / "fmnist_sample.npz"
CLASSES, BATCH, SHIFT = 10, 128, 2


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias, and BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Vgg(nn.Sequential):
    """Simonyan and Zisserman 2014, with BatchNorm: five convolutions, two linear layers."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        width = 1
        for outputs, depth in ((16, 1), (32, 2), (64, 2)):
            for _ in range(depth):
                layers += [conv(width, outputs), nn.ReLU()]
                width = outputs
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.Flatten(), nn.Linear(9 * width, 64), nn.ReLU(), nn.Linear(64, CLASSES))


class Inverted(nn.Module):
    """Sandler et al. 2018, an inverted residual block: widen, filter each channel, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int, widen: int = 6) -> None:
        super().__init__()
        inner = widen * inputs
        self.block = nn.Sequential(
            conv(inputs, inner, 1),
            nn.ReLU6(),
            conv(inner, inner, 3, stride, groups=inner),
            nn.ReLU6(),
            conv(inner, outputs, 1),
        )
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """The block, added to its input where the shapes agree."""
        found: Tensor = self.block(x)
        return x + found if self.skips else found


class MobileNet(nn.Sequential):
    """MobileNetV2 (Sandler et al. 2018) for small images."""

    def __init__(self) -> None:
        blocks = [(24, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
        super().__init__(
            conv(1, 24, stride=2),
            nn.ReLU6(),
            *(Inverted(*block) for block in blocks),
            conv(64, 256, 1),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(256, CLASSES),
        )


class Block(nn.Module):
    """A transformer's block, the normalisation first: attention of four heads, then an MLP."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens, shape (batch, tokens, width)."""
        size = x.shape[2] // self.heads
        parts = self.qkv(self.norm1(x)).reshape(-1, x.shape[1], 3, self.heads, size).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        seen = functional.softmax(q @ k.transpose(2, 3) * size**-0.5, dim=-1) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(x.shape))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Dosovitskiy et al. 2020, small: 16 patches of 7 by 7 pixels, three blocks, the mean of all tokens."""

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Images to logits."""
        x = self.patches(image).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


NETWORKS: dict[str, type[nn.Module]] = {"vgg": Vgg, "mobilenet": MobileNet, "vit": Vit}
EPOCHS = {"vgg": 6, "mobilenet": 4, "vit": 14}  # some four minutes of one core each


def read(path: Path, header: int) -> NDArray[np.uint8]:
    """The bytes of a file of the data set behind its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def training(folder: Path) -> tuple[Tensor, Tensor]:
    """Images and labels to train on: none that the sample tests with.

    Args:
        folder: where the data set's files are.

    Returns:
        Images as the networks take them, shape (count, 1, 28, 28), and labels, shape (count,).
    """
    pixels = read(folder / "train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = read(folder / "train-labels-idx1-ubyte.gz", 8)
    with np.load(SAMPLE) as sample:
        tested = {image.tobytes() for image in sample["test"]}
        mean, std = float(sample["mean"]), float(sample["std"])
    kept = np.array([image.tobytes() not in tested for image in pixels])
    images = (torch.from_numpy(pixels[kept]).float() / 255 - mean) / std
    return images, torch.from_numpy(labels[kept]).long()


def augmented(images: Tensor) -> Tensor:
    """Images moved by up to two pixels, half of them mirrored."""
    count, _, high, wide = images.shape
    padded = functional.pad(images, [SHIFT] * 4, value=float(images.min()))
    down, right = torch.randint(2 * SHIFT + 1, (2, count, 1, 1))
    rows, columns = down + torch.arange(high)[:, None], right + torch.arange(wide)
    mirrored = torch.rand(count, 1, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(-1), columns)
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train in place: AdamW, one cycle of learning rates, smoothed labels."""
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for epoch in range(epochs):
        start, losses = time.process_time(), []
        for pick in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            logits = network(augmented(images[pick]))
            loss = functional.cross_entropy(logits, labels[pick], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(
            f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, {time.process_time() - start:.0f} CPU s",
            flush=True,
        )


def export(network: nn.Module, path: Path) -> None:
    """Write the network, its BatchNorms unfused, with a dynamic batch axis."""
    network.eval()
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, 28, 28),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), default=list(NETWORKS))
@click.option("--epochs", type=int, help="As the shipped network had by default.")
@click.option("--seed", default=0)
def main(data: Path, out: Path, names: tuple[str, ...], epochs: int | None, seed: int) -> None:
    """Train, export, and count what is right."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # a seed makes the same network on any machine of a kind
    images, labels = training(data)
    for name in names:
        torch.manual_seed(seed)
        network = NETWORKS[name]().to(
            memory_format=torch.channels_last
        )  # depthwise layers take half the time
        print(f"{name}: {sum(p.numel() for p in network.parameters())} parameters, {len(images)} images")
        train(network, images, labels, epochs or EPOCHS[name])
        path = out / f"fmnist_{name}.onnx"
        export(network, path)
        print(
            f"{path.name}: {path.stat().st_size} bytes, top-1 {top1(onnx.load(path), SAMPLE):.1%}", flush=True
        )


if __name__ == "__main__":
    main()
