"""Studies: many recipes judged alike, and the store that keeps their runs."""
