"""The command ``lmf`` from a checkout: python run.py experiment=lmf_edsr"""

from lmf.app.cli import main

if __name__ == "__main__":
    main()
