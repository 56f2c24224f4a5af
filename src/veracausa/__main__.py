"""`python -m veracausa`: the command line."""

from veracausa.cli.app import main

if __name__ == "__main__":
    main()
