"""``python -m lmf``: the command ``lmf``."""

from lmf.app.cli import main

if __name__ == "__main__":
    main()
