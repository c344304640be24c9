"""Work of redaes spread over a Ray cluster."""
