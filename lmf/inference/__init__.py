"""Enlarging pictures: files and folders, in bounded memory."""
