"""What the torch engine computes on a CPU between the base's products, in C++ of our own.

A decode step of many small operations spends most of its time on calling them: PyTorch has no
attention over blocks, no update by many adapters and nothing that does a norm at once. These
kernels do each in one pass. They are compiled when an engine first starts, where there is a
compiler; where there is none, PyTorch's own operations compute the same.
"""
