"""FedKD and its baselines."""
