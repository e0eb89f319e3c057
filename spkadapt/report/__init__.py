"""What a run ends in: measured results, pictures of them, one page for a reader, one table for a terminal."""
