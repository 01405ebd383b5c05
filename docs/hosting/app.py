"""The zoom page as an ASGI application, for hosting: uvicorn app:app --host 0.0.0.0 --port 7860

``LMF_HOSTS`` lists the names by which browsers reach it, separated by spaces.
"""

import os

import torch

from lmf.web import Settings, create_app, methods

app = create_app(
    methods(["lm_liif_edsr", "lm_lte_edsr"], torch.device("cpu")),
    settings=Settings(
        max_bytes=10 << 20,
        max_pixels=4_000_000,
        max_output=64_000_000,
        sessions=8,
        idle=300,
        latents=256 << 20,
        hosts=tuple(os.environ.get("LMF_HOSTS", "").split()),
    ),
)
