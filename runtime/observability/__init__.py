"""What a server shows of itself, and what an operator adjusts while it runs."""
