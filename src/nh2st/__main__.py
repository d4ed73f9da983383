"""``python -m nh2st``: the command-line program."""

from __future__ import annotations

from nh2st._cli import main

if __name__ == "__main__":
    main(prog_name="nh2st")
