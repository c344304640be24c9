"""Training: pure objectives, and the three stages as LightningModules."""
