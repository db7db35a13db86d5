"""``python -m mariana_asr.cli``: the command line where its script is not on the path."""

from mariana_asr.cli.main import main

main(prog_name="mariana-asr")
