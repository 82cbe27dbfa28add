"""`python -m segloss_hub` is `segloss`."""

from segloss_hub.cli import main

main()
