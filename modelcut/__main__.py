"""Runs `python -m modelcut`."""

from modelcut.cli import main

if __name__ == "__main__":
    main()
