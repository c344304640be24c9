"""The data engine: photographs in, scored pairs and groups out (METHOD 2). No torch here."""
