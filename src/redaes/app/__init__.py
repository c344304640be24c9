"""The web page: photographs in, scores, comparisons and advice out, on this computer."""
