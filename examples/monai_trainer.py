"""A loss of the hub in MONAI's trainer. Needs `pip install monai pytorch-ignite`."""

import torch
from monai.engines import SupervisedTrainer
from monai.networks.nets import UNet
from torch import Tensor
from torch.utils.data import DataLoader

from segloss_hub import create_loss


def main() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (62, 1, 4, 4, 4)).float()
    labels = torch.nn.functional.interpolate(labels, scale_factor=4)
    images = labels + 0.3 * torch.randn_like(labels)
    pairs = [{"image": image, "label": label} for image, label in zip(images, labels)]
    network = UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=(8, 16), strides=(2,))
    loss = create_loss("cross-entropy + 0.5 * dice")

    def score(logits: Tensor, target: Tensor) -> Tensor:
        value: Tensor = loss(logits, target[:, 0].long())  # MONAI's labels have a channel
        if trainer.state.iteration % 10 == 1:
            print(f"step {trainer.state.iteration - 1} loss {value:.3f}")
        return value

    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(pairs, batch_size=2),
        network=network,
        optimizer=torch.optim.AdamW([*network.parameters(), *loss.parameters()], lr=0.01),
        loss_function=score,
    )
    trainer.run()


if __name__ == "__main__":
    main()
