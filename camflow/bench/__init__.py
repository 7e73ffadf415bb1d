"""Speed and memory of the stages on this machine: ``camflow bench``. No stage imports it (docs/benchmarks.md)."""
