"""Records for people: the terminal, tables for papers, leaderboards, the HTML report. Reads records only."""
