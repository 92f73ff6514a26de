"""Whether regions are well: verdicts of one vantage point, the loop that reaches them, and what several agree on."""
