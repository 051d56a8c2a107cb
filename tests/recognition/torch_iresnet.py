"""The iresnet of arcface_torch, written down again in PyTorch: the peer whose weights are read."""
import torch
from torch import nn

EPS = 1e-5


class Unit(nn.Module):
    def __init__(self, channels, filters, first):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels, EPS)
        self.conv1 = nn.Conv2d(channels, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters, EPS)
        self.prelu = nn.PReLU(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 2 if first else 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(filters, EPS)
        self.downsample = nn.Sequential(nn.Conv2d(channels, filters, 1, 2, bias=False),
                                        nn.BatchNorm2d(filters, EPS)) if first else None

    def forward(self, x):
        out = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return out + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Images (N, 3, 112, 112), (pixels - 127.5) / 127.5 -> (N, emb_size)."""

    def __init__(self, units=(2, 2, 2, 2), emb_size=512):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64, EPS)
        self.prelu = nn.PReLU(64)
        widths = (64, 64, 128, 256, 512)
        for stage, count in enumerate(units, 1):
            self.add_module(f"layer{stage}", nn.Sequential(*(
                Unit(widths[stage - (number == 0)], widths[stage], number == 0) for number in range(count))))
        self.bn2 = nn.BatchNorm2d(512, EPS)
        self.dropout = nn.Dropout(0.0, inplace=True)
        self.fc = nn.Linear(512 * 7 * 7, emb_size)
        self.features = nn.BatchNorm1d(emb_size, EPS)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.dropout(torch.flatten(self.bn2(x), 1))))


def drawn(seed=0, **settings):
    """An IResNet in inference, of which nothing is at its start; some variances are as small as a batch norm's eps."""
    torch.manual_seed(seed)
    network = IResNet(**settings).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
                if name in ("bn1.running_var", "features.running_var"):
                    tensor[::7] = 1e-5
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.uniform_(0.1, 1.2) if name.endswith("weight") else tensor.uniform_(-0.2, 0.2)
    return network
