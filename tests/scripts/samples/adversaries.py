"""Two optimizers with a loss of their own each, as in a GAN. Sizes stand in the code."""

import torch
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
loader = DataLoader(torch.randn(2048, 8), batch_size=16, shuffle=True)
makes = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
judges = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
of_judge = torch.optim.Adam(judges.parameters(), 1e-3)
of_maker = torch.optim.Adam(makes.parameters(), 1e-3)
for _ in range(10_000):
    for real in loader:
        made = makes(torch.randn(len(real), 4))
        of_judge.zero_grad()
        judges(real).sigmoid().log().neg().mean().backward()
        (1 - judges(made.detach()).sigmoid()).log().neg().mean().backward()
        of_judge.step()
        of_maker.zero_grad()
        judges(made).sigmoid().log().neg().mean().backward()
        of_maker.step()
