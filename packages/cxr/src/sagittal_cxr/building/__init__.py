"""How an index is made: rows, splits, checks of pictures, duplicates, the overview."""
