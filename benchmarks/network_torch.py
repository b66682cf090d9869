"""The same training in PyTorch, for `benchmarks.network --torch PYTHON`; runs in an environment of its own.

    PYTHON benchmarks/network_torch.py DATA.npz SHAPE EPOCHS LEARNING_RATE BATCH SEEDS

Prints one line per seed: CPU seconds, accuracy on the test part.
"""

import itertools
import sys
import time

import numpy as np
import torch


def main(data: str, shape: str, epochs: int, learning_rate: float, batch: int, seeds: int) -> None:
    """Trains once per seed; the split is the one in the file, one for each seed."""
    torch.set_num_threads(1)
    sizes = [int(size) for size in shape.split("-")]
    parts = np.load(data)
    for seed in range(-1, seeds):  # the first run, which warms up, is not printed
        X, y, X_test, y_test = (torch.from_numpy(parts[f"{name}{max(seed, 0)}"]) for name in ("X", "y", "U", "v"))
        torch.manual_seed(seed)
        layers = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        network = torch.nn.Sequential(*layers[:-1])
        started = time.process_time()
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        cost = torch.nn.CrossEntropyLoss()
        for _ in range(epochs):
            for rows in torch.randperm(len(X)).split(batch):
                optimizer.zero_grad()
                cost(network(X[rows]), y[rows]).backward()
                optimizer.step()
        seconds = time.process_time() - started
        if seed >= 0:
            with torch.no_grad():
                print(seconds, float((network(X_test).argmax(1) == y_test).float().mean()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
