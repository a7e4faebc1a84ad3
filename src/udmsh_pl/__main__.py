"""``python -m udmsh_pl`` is the command ``udmsh``."""

from udmsh_pl.cli import main

if __name__ == "__main__":
    main()
