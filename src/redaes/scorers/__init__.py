"""Other people's ways of scoring a photograph, behind the contract of `redaes.inference`: the rivals of Table 1."""
