"""A loss of the hub in plain PyTorch, on the nuclei that ship with it."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segloss_hub import create_loss
from segloss_hub.data import nuclei_path


def load(kind: str) -> Tensor:
    files = sorted((nuclei_path() / kind / "train").glob("*.png"))
    return torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])


def main() -> None:
    torch.manual_seed(0)
    images, labels = load("images")[:, None] / 255, load("masks3").long()
    network = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 3, 1))
    loss = create_loss("cross-entropy + dice")
    # Some losses have parameters to learn, too.
    optimizer = torch.optim.AdamW([*network.parameters(), *loss.parameters()], lr=0.01)
    for step in range(31):
        batch = torch.randint(len(images), (8,))
        value = loss(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step} loss {value:.3f}")


if __name__ == "__main__":
    main()
