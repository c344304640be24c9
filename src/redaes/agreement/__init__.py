"""How well predictions agree with truths: the mathematics that training's curves and the evaluation's tables share."""
