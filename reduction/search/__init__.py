"""Search of architectures: spaces, exact costs, evolution, gradients, rewards."""
