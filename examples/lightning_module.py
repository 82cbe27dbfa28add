"""A loss of the hub in a Lightning module. Needs `pip install lightning`."""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from segloss_hub import create_loss


class Segmentor(lightning.LightningModule):
    def __init__(self, expression: str) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 1))
        self.loss = create_loss(expression)  # a submodule: its state is moved, trained and saved

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        value = self.loss(self.network(images), labels)
        if index % 10 == 0:
            print(f"step {index} loss {value:.3f}")
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.03)


def main() -> None:
    lightning.seed_everything(0)
    labels = torch.randint(0, 3, (124, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = labels[:, None] + 0.3 * torch.randn(124, 1, 32, 32)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(Segmentor("t-loss"), loader)


if __name__ == "__main__":
    main()
