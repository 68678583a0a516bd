"""What the benchmarks compare with: programs that need nothing of this project."""
