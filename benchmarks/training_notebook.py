"""The notebook's way of comparing a network with and without batch normalization, written anew as
it stands there.

Every image on its own through Pillow and four transforms, in a loader with two workers; eager
float32 in PyTorch's default layout; the loss and the correct answers brought to the host at every
step; a whole second training of each network for its activations. The transforms do what
torchvision's do (RandomCrop, RandomHorizontalFlip, ToTensor, Normalize), kernel by kernel, without
depending on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH_SIZE, WORKERS, CAPTURED_BATCHES = 128, 2, 3


def random_crop(image: Image.Image, size: int = 32, padding: int = 4) -> Image.Image:
    padded = ImageOps.expand(image, border=padding, fill=0)
    width, height = padded.size
    top = int(torch.randint(0, height - size + 1, size=(1,)).item())
    left = int(torch.randint(0, width - size + 1, size=(1,)).item())
    return padded.crop((left, top, left + size, top + size))


def random_flip(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image


def to_tensor(image: Image.Image) -> Tensor:
    """Float32 [C, H, W] in [0, 1]."""
    pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
    return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def normalize(image: Tensor) -> Tensor:
    mean = torch.as_tensor(MEAN, dtype=image.dtype).view(-1, 1, 1)
    std = torch.as_tensor(STD, dtype=image.dtype).view(-1, 1, 1)
    return image.clone().sub_(mean).div_(std)


TRAIN = (random_crop, random_flip, to_tensor, normalize)
TEST = (to_tensor, normalize)


class Images(Dataset):
    """Images uint8 [N, H, W, C] in memory, handed out one by one as Pillow images through the
    transforms.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, transforms: Sequence[Callable]):
        self.images, self.labels, self.transforms = np.array(images), labels.tolist(), transforms

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item: Any = Image.fromarray(self.images[index])
        for transform in self.transforms:
            item = transform(item)
        return item, self.labels[index]


def loader(images: np.ndarray, labels: np.ndarray, *, train: bool) -> DataLoader:
    return DataLoader(
        Images(images, labels, TRAIN if train else TEST),
        batch_size=BATCH_SIZE,
        shuffle=train,
        num_workers=WORKERS,
        pin_memory=torch.cuda.is_available(),  # without CUDA it does nothing but warn
    )


class ResBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int, use_bn: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=not use_bn)
        self.bn1 = nn.BatchNorm2d(outer) if use_bn else nn.Identity()
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=not use_bn)
        self.bn2 = nn.BatchNorm2d(outer) if use_bn else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != outer:
            projection = nn.Conv2d(inner, outer, 1, stride=stride, bias=not use_bn)
            self.shortcut = nn.Sequential(projection, *([nn.BatchNorm2d(outer)] if use_bn else []))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """The notebook's network: 175,258 parameters with batch normalization, 174,698 without."""

    def __init__(self, use_bn: bool):
        super().__init__()
        first = nn.Conv2d(3, 16, 3, padding=1, bias=not use_bn)
        self.stem = nn.Sequential(
            first, nn.BatchNorm2d(16) if use_bn else nn.Identity(), nn.ReLU(inplace=True)
        )
        self.layer1 = nn.Sequential(ResBlock(16, 16, 1, use_bn), ResBlock(16, 16, 1, use_bn))
        self.layer2 = nn.Sequential(ResBlock(16, 32, 2, use_bn), ResBlock(32, 32, 1, use_bn))
        self.layer3 = nn.Sequential(ResBlock(32, 64, 2, use_bn), ResBlock(64, 64, 1, use_bn))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.pool(x).flatten(1))


class Arm:
    """One of the two networks on its way through its epochs."""

    def __init__(self, use_bn: bool, device: str, epochs: int = 30):
        self.device = device
        self.model = SmallResNet(use_bn).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
        )
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=epochs)
        self.criterion = nn.CrossEntropyLoss()

    def train_epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """(loss, accuracy) of one pass."""
        self.model.train()
        total_loss, correct, total = 0.0, 0, 0
        for inputs, targets in batches:
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            self.optimizer.zero_grad()
            outputs = self.model(inputs)
            loss = self.criterion(outputs, targets)
            loss.backward()
            self.optimizer.step()
            total_loss += loss.item() * inputs.size(0)
            correct += outputs.argmax(1).eq(targets).sum().item()
            total += inputs.size(0)
        self.scheduler.step()
        return total_loss / total, correct / total

    def gradient_norm(self) -> float:
        """Of the stem, after an epoch's last step."""
        gradient = next(self.model.stem.parameters()).grad
        return 0.0 if gradient is None else gradient.norm().item()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """(loss, accuracy) on the test images."""
        self.model.eval()
        total_loss, correct, total = 0.0, 0, 0
        for inputs, targets in batches:
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            outputs = self.model(inputs)
            total_loss += self.criterion(outputs, targets).item() * inputs.size(0)
            correct += outputs.argmax(1).eq(targets).sum().item()
            total += inputs.size(0)
        return total_loss / total, correct / total

    @torch.no_grad()
    def activations(self, batches: Iterable[tuple[Tensor, Tensor]]) -> np.ndarray:
        """All outputs of the first stage on the first test batches."""
        self.model.eval()
        captured = []
        for index, (inputs, _) in enumerate(batches):
            if index >= CAPTURED_BATCHES:
                break
            captured.append(
                self.model.layer1(self.model.stem(inputs.to(self.device))).cpu().numpy().flatten()
            )
        return np.concatenate(captured)


@dataclass
class Timed:
    """Batches of a loader; afterwards, the seconds until the first of them and until the end of the
    loop over them.
    """

    batches: DataLoader
    first: float = 0.0
    seconds: float = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        begin = time.perf_counter()
        for index, batch in enumerate(self.batches):
            if index == 0:
                self.first = time.perf_counter() - begin
            yield batch
        self.seconds = time.perf_counter() - begin

    def of_whole(self, factor: float) -> float:
        """Seconds that `factor` times as many batches would take: the workers start once."""
        return self.first + (self.seconds - self.first) * factor
