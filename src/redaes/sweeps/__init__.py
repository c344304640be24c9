"""The paper's ablations as sweeps: a grid of named rows and seeds, carried out here, its results and their page."""
