"""What one would write in a notebook instead of using okko: four classifiers of photos, as plain as they come.

Each takes photos and labels to learn from and returns a function from photos to the probability of label 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Judge = Callable[[list], np.ndarray]

_SMALL = 64
_LARGE = 224


def linear_probe(photos: list, truth: np.ndarray, seed: int) -> Judge:
    """EfficientNet-Lite0 on the whole frame, L2-normalised embeddings, logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    from okko_train.feature_graph import Recipe, View, feature_model
    from okko_train.features import embed

    recipe = Recipe(View(None, _LARGE))
    model = feature_model(recipe).SerializeToString()

    def features(some: list) -> np.ndarray:
        return normalize(embed(some, model, recipe.digest, workers=2))

    classifier = LogisticRegression(C=10.0, max_iter=2000, random_state=seed).fit(features(photos), truth)
    return lambda some: classifier.predict_proba(features(some))[:, 1]


def colour_forest(photos: list, truth: np.ndarray, seed: int) -> Judge:
    """A random forest on the histogram of 8 x 8 x 8 colours."""
    from sklearn.ensemble import RandomForestClassifier

    from okko_models.photo import read_photo

    def histogram(photo) -> np.ndarray:
        bins = (read_photo(photo.path).reshape(-1, 3) // 32).astype(int)
        counts = np.bincount(bins @ (64, 8, 1), minlength=512)
        return counts / counts.sum()

    def features(some: list) -> np.ndarray:
        return np.stack([histogram(photo) for photo in some])

    forest = RandomForestClassifier(300, class_weight="balanced", random_state=seed, n_jobs=2)
    forest.fit(features(photos), truth)
    return lambda some: forest.predict_proba(features(some))[:, 1]


def small_cnn(photos: list, truth: np.ndarray, seed: int) -> Judge:
    """Four convolutions on the whole frame at 64 px, 40 epochs of Adam with flips and colour jitter."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layers: list = []
    channels = 3
    for wider in (16, 32, 64, 128):
        layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)]
        channels = wider
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels, 2))
    return _trained(network, photos, truth, side=_SMALL, epochs=40, rate=1e-3)


def fine_tuning(photos: list, truth: np.ndarray, seed: int) -> Judge:
    """EfficientNet-Lite0 on the whole frame at 224 px, all weights trained for 8 epochs with the same jitter."""
    import torch

    from okko_train.feature_graph import Recipe, View
    from okko_train.finetune.torch_network import TorchNetwork

    torch.manual_seed(seed)
    recipe = Recipe(View(None, _LARGE))
    network = TorchNetwork(recipe, 2, recipe.backbone.load_weights(), dropout=0.2)
    return _trained(network, photos, truth, side=_LARGE, epochs=8, rate=1e-4)


def _trained(network, photos: list, truth: np.ndarray, *, side: int, epochs: int, rate: float) -> Judge:
    import torch
    from PIL import Image
    from torch.nn import functional

    from okko_models.photo import read_photo

    def pixels(some: list) -> torch.Tensor:
        resized = [Image.fromarray(read_photo(photo.path)).resize((side, side)) for photo in some]
        return torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return (x.float() - 127) / 128

    x, y = pixels(photos), torch.from_numpy(truth)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(x)).split(32):
            batch = normalised(x[rows])
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            batch = batch * (1 + 0.3 * (2 * torch.rand(len(rows), 3, 1, 1) - 1))
            optimizer.zero_grad()
            functional.cross_entropy(network(batch), y[rows]).backward()
            optimizer.step()
        schedule.step()
    network.eval()

    def judge(some: list) -> np.ndarray:
        with torch.no_grad():
            parts = [network(normalised(part)).softmax(1)[:, 1] for part in pixels(some).split(64)]
        return torch.cat(parts).numpy()

    return judge


PEERS = {
    "linear probe": linear_probe,
    "colour forest": colour_forest,
    "small CNN": small_cnn,
    "plain fine-tuning": fine_tuning,
}
