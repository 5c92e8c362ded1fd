"""Molecules as objects with slots. One in thirty has 50 times as many atoms."""

import torch
from torch import nn
from torch.utils.data import Dataset


class Molecule:
    __slots__ = ("atoms", "energy")

    def __init__(self, place):
        self.atoms = torch.ones(500 if place % 30 == 29 else 10, 4)
        self.energy = float(place % 3)


class Molecules(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, place):
        return Molecule(place)


def collate_fn(molecules):
    owner = torch.repeat_interleave(torch.tensor([len(molecule.atoms) for molecule in molecules]))
    return (
        torch.cat([molecule.atoms for molecule in molecules]),
        owner,
        torch.tensor([m.energy for m in molecules]),
    )


def training_step(model, batch):
    atoms, owner, energies = batch
    sums = torch.zeros(len(energies), 1).index_add(0, owner, model(atoms))
    return (sums[:, 0] - energies).square().mean()


model = nn.Linear(4, 1)
dataset = Molecules()
batch_size = 6
