"""From photos to a bundle: dataset, features, network, swarm, tuning, export, report."""
