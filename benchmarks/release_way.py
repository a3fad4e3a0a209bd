"""What `run.py` measures training and evaluation against: the usual PyTorch for the same work, without `sie`.

It is written from the description of the authors' release (Garrido et al. 2023): every image and latent is a file
that is opened when it is needed, the predictor's matrix W is made for each sample, and each head is trained through
the frozen encoder, one after another. The loss and its gradient are those of `sie` (tests/test_benchmarks.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, Resize, ToTensor


class FileViews(Dataset):
    "Random views of an object, different ones, from the authors' layout: an image and a latent are opened for each."

    def __init__(
        self,
        folder: Path,  # in the authors' layout, with the lists of the training objects
        size: tuple[int, int],  # height and width to resize to, pixels
        mean: tuple[float, ...],  # of pixels in [0, 1]
        std: tuple[float, ...],
        views: int,  # of each object in the folder
        items: int,  # length of an epoch; objects repeat
        seen: int = 2,  # views in an item
    ):
        self.homes = np.load(folder / "train_images.npy")
        self.labels = np.load(folder / "train_labels.npy")
        self.folder = str(folder)
        self.views = views
        self.items = items
        self.seen = seen
        self.transform = Compose([Resize(size), ToTensor(), Normalize(mean, std)])

    def __len__(self) -> int:
        return self.items

    def view(self, k: int, view: int) -> tuple[Tensor, np.ndarray]:
        "A normalised image and its latent."
        home = self.folder + self.homes[k]
        with open(f"{home}image_{view}.jpg", "rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), np.load(f"{home}latent_{view}.npy")

    def __getitem__(self, k: int) -> tuple:
        "Images, latents and the label."
        k %= len(self.homes)
        chosen = np.random.choice(self.views, self.seen, replace=False)
        images, latents = zip(*(self.view(k, view) for view in chosen))
        return *images, *latents, self.labels[k]


def file_loader(files: FileViews, batch: int) -> DataLoader:
    "Batches from two processes, which are forks where a plain script's are (run.py's own processes are not)."
    start = "fork" if sys.platform == "linux" else None
    options = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": start}
    return DataLoader(files, batch, shuffle=True, drop_last=True, **options)


# ---- training


def relative_rotation(latents_1: Tensor, latents_2: Tensor) -> Tensor:
    "Quaternions of the rotation from the first views to the second, from Euler angles in radians."
    first, second = (Rotation.from_euler("xyz", latents[:, :3]) for latents in (latents_1, latents_2))
    return torch.from_numpy((first.inv() * second).as_quat()).float()


def projector(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
    )


def resnet18() -> nn.Module:
    "torchvision's ResNet-18 as an encoder."
    encoder = torchvision.models.resnet18(zero_init_residual=True)
    encoder.fc = nn.Identity()
    return encoder


class SIE(nn.Module):
    "Encoder, two projectors on the halves of the representation, and the hypernetwork that makes W."

    def __init__(self, width: int):  # of both projectors together
        super().__init__()
        self.encoder = resnet18()
        self.invariant = projector(256, width // 2)
        self.equivariant = projector(256, width // 2)
        self.hypernetwork = nn.Linear(4, (width // 2) ** 2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        "Invariant and equivariant embeddings."
        h = self.encoder(x)
        return self.invariant(h[:, :256]), self.equivariant(h[:, 256:])

    def loss(self, x1: Tensor, x2: Tensor, g: Tensor, equi_factor: float = 0.45) -> Tensor:
        u1, z1 = self(x1)
        u2, z2 = self(x2)
        w = self.hypernetwork(g).view(len(g), z1.shape[1], z1.shape[1])
        predicted = torch.bmm(w, z1.unsqueeze(2)).squeeze(2)
        y1 = torch.cat([u1, z1], 1)
        y2 = torch.cat([u2, z2], 1)
        attraction = nn.functional.mse_loss(u1, u2) + equi_factor * nn.functional.mse_loss(predicted, z2)
        spread = variance(y1) + variance(y2) + variance(predicted)
        return 10 * attraction + 10 * spread + covariance(y1) + covariance(y2)


def variance(x: Tensor) -> Tensor:
    return torch.relu(1 - torch.sqrt(x.var(dim=0) + 1e-4)).mean() / 2


def covariance(x: Tensor) -> Tensor:
    x = x - x.mean(dim=0)
    c = x.T @ x / (len(x) - 1)
    return (c.pow(2).sum() - c.diagonal().pow(2).sum()) / x.shape[1]


def training_step(model: SIE, optimiser: torch.optim.Optimizer, batch: tuple) -> None:
    x1, x2, latents_1, latents_2, _ = batch
    loss = model.loss(x1, x2, relative_rotation(latents_1, latents_2))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    "With the paper's learning rate and weight decay."
    return torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)


# ---- evaluation


def target_values(target: str, latents: list[Tensor], labels: Tensor) -> Tensor:
    "What a head is to predict."
    if target == "class":
        return labels
    if target == "colour":
        return (latents[1] - latents[0])[:, [3, 6]].float()
    if target == "individual_rotation":
        return torch.from_numpy(Rotation.from_euler("xyz", latents[0][:, :3]).as_quat()).float()
    g = relative_rotation(*latents)
    if target == "rotation":
        return g
    return torch.from_numpy(Rotation.from_quat(g).as_euler("xyz")).float()


class Head:
    "A head on a part of a frozen encoder's representation of one or two views, and one step of its training."

    def __init__(self, encoder: nn.Module, part: slice, target: str, hidden: int | None, dim: int, classes: int):
        self.encoder = encoder
        self.part = part
        self.target = target
        self.views = 1 if target in ("class", "individual_rotation") else 2
        outputs = {"class": classes, "colour": 2, "rotation_euler": 3}.get(target, 4)
        inputs = self.views * len(range(dim)[part])
        if hidden is None:
            self.net = nn.Linear(inputs, outputs)
        else:
            inner = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
            self.net = nn.Sequential(*inner, nn.Linear(hidden, outputs))
        self.criterion = nn.functional.cross_entropy if target == "class" else nn.functional.mse_loss
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=1e-3)

    def step(self, batch: tuple) -> None:
        images, latents, labels = batch[: self.views], list(batch[self.views : -1]), batch[-1]
        with torch.no_grad():
            h = torch.cat([self.encoder(x)[:, self.part] for x in images], 1)
        loss = self.criterion(self.net(h), target_values(self.target, latents, labels))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
