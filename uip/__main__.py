"""`python -m uip`: the `uip` command."""

from uip.cli.app import app

if __name__ == "__main__":
    app()
