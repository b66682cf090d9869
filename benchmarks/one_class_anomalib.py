"""Scores feature maps with anomalib's own PatchCore and PaDiM; run by `benchmarks.one_class` in anomalib's environment.

    python one_class_anomalib.py MAPS.npz SCORES.npz CORESET_SHARE

Both models are anomalib's code; only their feature extractor is replaced by one that looks up the maps of okko's
backbone, so that nothing differs but the method.
"""

import sys

import numpy as np
import torch

# Plain wheels of torchvision lack their compiled operators beside torch's CPU build; anomalib imports them and these
# two methods never call them, so their names are enough.
_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from anomalib.models.image.padim.torch_model import PadimModel  # noqa: E402
from anomalib.models.image.patchcore.torch_model import PatchcoreModel  # noqa: E402

SIDE = 224
BATCH = 16
PADIM_FEATURES = 100


class Lookup(torch.nn.Module):
    """Returns the stored maps of the photos whose numbers stand in the first pixel."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, numbers):
        """Returns the maps by layer for stand-ins of photos."""
        rows = numbers[:, 0, 0, 0].long()
        return {name: each[rows] for name, each in self.maps.items()}


def batches(n):
    """Stand-ins for photos: (batch, 3, side, side) tensors that hold their own numbers."""
    for start in range(0, n, BATCH):
        numbers = torch.arange(start, min(n, start + BATCH), dtype=torch.float32)
        yield numbers[:, None, None, None].expand(-1, 3, SIDE, SIDE)


def patchcore(learn, test, n_learn, n_test, share):
    """Returns PatchCore's score of each test photo."""
    torch.manual_seed(0)
    model = PatchcoreModel(layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False).train()
    model.layers = list(learn)
    model.feature_extractor = Lookup(learn)
    for photos in batches(n_learn):
        model(photos)
    model.subsample_embedding(share)
    model.eval()
    model.feature_extractor = Lookup(test)
    with torch.no_grad():
        return torch.cat([model(photos).pred_score.flatten() for photos in batches(n_test)]).numpy()


def padim(learn, test, n_learn, n_test):
    """Returns PaDiM's score of each test photo."""
    torch.manual_seed(0)
    # Its own layers are named when it is made, for it looks them up in the backbone that is replaced below.
    model = PadimModel(backbone="resnet18", pre_trained=False, n_features=PADIM_FEATURES).train()
    model.layers = list(learn)
    channels = sum(maps.shape[1] for maps in learn.values())
    model.idx = torch.randperm(channels)[:PADIM_FEATURES]
    model.feature_extractor = Lookup(learn)
    for photos in batches(n_learn):
        model(photos)
    model.fit()
    model.eval()
    model.feature_extractor = Lookup(test)
    with torch.no_grad():
        return torch.cat([model(photos).pred_score.flatten() for photos in batches(n_test)]).numpy()


def main():
    """Reads the maps and writes the scores."""
    maps_path, scores_path, share = sys.argv[1:]
    data = np.load(maps_path)
    names = sorted({name.split("_", 1)[1] for name in data.files}, key=lambda name: -data[f"learn_{name}"].shape[-1])
    learn, test = (
        {name: torch.from_numpy(data[f"{part}_{name}"].astype(np.float32)) for name in names}
        for part in ("learn", "test")
    )
    sizes = len(data[f"learn_{names[0]}"]), len(data[f"test_{names[0]}"])
    np.savez(scores_path, patchcore=patchcore(learn, test, *sizes, float(share)), padim=padim(learn, test, *sizes))


if __name__ == "__main__":
    main()
