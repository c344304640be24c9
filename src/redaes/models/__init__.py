"""Models: open, freeze, adapt, run and export a vision-language model."""
