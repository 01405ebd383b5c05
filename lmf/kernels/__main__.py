"""``python -m lmf.kernels``: compiles the CPU kernel ahead of its first use."""

from lmf.kernels.build import BuildError, build

try:
    print(f"CPU kernel: {build()}")
except (BuildError, OSError) as error:
    print(f"CPU kernel not built, rendering on the CPU will use plain torch: {error}")
