"""Pictures in and out."""

import torch


def decompose(image):
    raise NotImplementedError
