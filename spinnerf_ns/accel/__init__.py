"""Speed and nothing else: C++ kernels and a quick nerfacto; with all of it off, results are the same but for rounding."""
