"""What is generated from the cards: README.md, BibTeX."""
