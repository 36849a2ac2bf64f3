"""What `tools/bench/kernels.py` compares, one module per kernel."""
