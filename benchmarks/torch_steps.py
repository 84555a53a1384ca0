"""Training steps of PyTorch: channels_last, autocast, eager or compiled."""

import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import step_server

_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def _network(width):
    layers, before = [], 3
    for depth, filters in _BLOCKS:
        for _ in range(depth):
            after = round(filters * width)
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
            before = after
        layers.append(nn.AvgPool2d(2))
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)
    )


def _augment(images):
    """Flips and shifts images, float [b, 3, 32, 32]."""
    count, device = len(images), images.device
    flips = torch.rand(count, 1, 1, 1, device=device) < 0.5
    images = torch.where(flips, images.flip(3), images)
    padded = functional.pad(images, (2, 2, 2, 2), mode="reflect")
    shifts = torch.randint(0, 5, (2, count, 1), device=device)
    indices = torch.arange(32, device=device)
    rows, columns = (shifts + indices)[:, :, None, :]
    examples = torch.arange(count, device=device)[:, None, None, None]
    channels = torch.arange(3, device=device)[None, :, None, None]
    return padded[examples, channels, rows[..., None], columns[:, :, None]]


def make_run(settings):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    # All three frameworks compute in real float32, not in TF32.
    torch.backends.cudnn.allow_tf32 = False
    model = _network(settings.width).to(
        device, memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(
        model.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True
    )
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (settings.batch, 3, 32, 32), dtype=torch.uint8, generator=draws
    )
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (settings.batch,), generator=draws)
    labels = labels.to(device)
    mean = torch.tensor([125.3, 123.0, 113.9], device=device)[:, None, None]
    std = torch.tensor([63.0, 62.1, 66.7], device=device)[:, None, None]
    low = settings.precision != "float32"

    def losses(images, labels):
        pixels = _augment((images.float() - mean) / std)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            device.type, getattr(torch, settings.precision), enabled=low
        ):
            logits = model(pixels)
        return functional.cross_entropy(
            logits.float(), labels, label_smoothing=0.1
        )

    if settings.compile:
        losses = torch.compile(losses)

    def run(count):
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            losses(images, labels).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    step_server.serve(make_run)
