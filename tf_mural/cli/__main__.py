"""Runs a command: python -m tf_mural.cli train --stage=etcl"""

from tf_mural import cli

if __name__ == "__main__":
    cli.main()
