"""The HTTP endpoint: scores, comparisons and rankings for programs, batched across requests."""
