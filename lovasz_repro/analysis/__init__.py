"""From records to numbers: scores, intervals, claims, decisions."""
