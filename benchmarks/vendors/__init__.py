"""The vendors' protocols on loopback: what paid models would answer, without paying, and what goes wrong on the way.

`world` says what is answered: a pure function of pixels, words and model. `server` speaks the protocols and counts.
`faults` breaks a share of the answers. Start it with `python -m benchmarks.vendors.server --port 0`.
"""
