"""Rollouts by vLLM, for GRPO on models whose sampling would take longer than their training.

Two rollouts share the same parts: `colocated` runs the engine in the training process and lets it sleep while the
model learns, `server` asks an engine elsewhere. `exchange` says what is asked of an engine and reads what it answers,
`weights` makes the trainer's weights ready to be sent and knows whether they changed.
"""
