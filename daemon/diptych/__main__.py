"""``python -m diptych`` is ``diptych``."""

from diptych.cli import app

if __name__ == "__main__":
    app(prog_name="diptych")
