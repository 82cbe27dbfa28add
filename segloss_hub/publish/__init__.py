"""What is generated from the cards: README.md, the taxonomy figure, BibTeX."""
