"""Runs `python -m modelcut`."""

from modelcut.cli.main import main

if __name__ == "__main__":
    main()
