"""A local page that zooms into pictures; needs the extra ``web``."""

from lmf.web.methods import Method, methods
from lmf.web.run import serve
from lmf.web.scene import Picture
from lmf.web.server import create_app
from lmf.web.settings import Settings

__all__ = ["Method", "Picture", "Settings", "create_app", "methods", "serve"]
