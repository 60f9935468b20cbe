"""`python -m uip`: the `uip` command."""

from uip.cli import app

if __name__ == "__main__":
    app()
