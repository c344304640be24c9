"""Chat models: images and words in, words out. Judges, instructors and verifiers of every vendor are built on them."""
